//! What a file that comes with a launch must be, decided on the open descriptor.

use std::os::fd::{AsFd, BorrowedFd};

use banger_root_proto::{DriveRole, LaunchSpec, Refusal, RefusalCode};
use linux_raw_sys::general::FUSE_SUPER_MAGIC;
use rustix::fs::{FileType, Mode, OFlags, fchmod, fchown, fcntl_getfl, fstat, fstatfs};
use rustix::process::{Gid, Uid};

use crate::acl;
use crate::qemu::Role;
use crate::refuse::{OrRefuse as _, refuse};
use crate::uids::is_vmm_uid;

/// How the VMM comes to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Only reads what many may read.
    Shared,
    /// Owns it while it runs.
    Owned,
}

/// What `fstat` and `fcntl` say of a descriptor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    kind: FileType,
    uid: u32,
    pub(crate) mode: u32,
    links: u64,
    pub(crate) length: u64,
    readable: bool,
    pub(crate) writable: bool,
    /// Whether its file system is a program of somebody's.
    pub(crate) in_user_space: bool,
    /// Whether an access list on it names the owner: left by an earlier launch of ours.
    lent: bool,
}

impl Facts {
    pub(crate) fn of(file: BorrowedFd<'_>, owner: u32) -> Result<Self, Refusal> {
        let stat = fstat(file).or_refuse(|| "failed to look at a descriptor".into())?;
        let flags = fcntl_getfl(file).or_refuse(|| "failed to look at a descriptor".into())?;
        let opened = !flags.contains(OFlags::PATH);
        let readable = opened && flags & OFlags::RWMODE != OFlags::WRONLY;
        let writable = opened && flags & OFlags::RWMODE != OFlags::RDONLY;
        let system = fstatfs(file).or_refuse(|| "failed to look at a descriptor".into())?;
        Ok(Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            uid: stat.st_uid,
            mode: stat.st_mode & 0o7777,
            links: u64::from(stat.st_nlink as u32),
            length: stat.st_size.unsigned_abs(),
            readable,
            writable,
            in_user_space: system.f_type == i64::from(FUSE_SUPER_MAGIC),
            lent: is_vmm_uid(stat.st_uid) && (owner == 0 || (opened && acl::names(file, owner))),
        })
    }
}

/// The files after the folder, in the order of the protocol.
pub(crate) fn roles(spec: &LaunchSpec) -> Vec<(Role, bool)> {
    let mut roles = vec![(Role::Kernel, true), (Role::Initrd, true)];
    for drive in &spec.drives {
        roles.push((Role::Drive(drive.role), drive.read_only));
        if drive.format.has_base() {
            roles.push((Role::Base, true));
        }
    }
    roles
}

/// Whether the folder is one of the owner's directories.
pub(crate) fn check_folder(facts: &Facts, owner: u32) -> Result<(), Refusal> {
    if facts.kind != FileType::Directory {
        return Err(refuse(
            RefusalCode::Descriptor,
            "the VM's folder is not a directory",
        ));
    }
    if facts.uid != owner {
        let message = format!(
            "the VM's folder belongs to user {}, not to {owner}",
            facts.uid
        );
        return Err(refuse(RefusalCode::Descriptor, message));
    }
    Ok(())
}

/// What to do with a file, or why it is refused. `stray` says whether a user id of VMMs' belongs
/// to no VM that could still run.
pub(crate) fn decide(
    role: Role,
    read_only: bool,
    facts: &Facts,
    owner: u32,
    stray: impl Fn(u32) -> bool,
) -> Result<Use, Refusal> {
    let no = |why: String| {
        let message = format!("the file for `{}` {why}", role.as_str());
        Err(refuse(RefusalCode::Descriptor, message))
    };
    if facts.kind != FileType::RegularFile {
        return no("is not a regular file".into());
    }
    if !facts.readable {
        return no("was not opened for reading".into());
    }
    if facts.links == 0 {
        return no("has been deleted".into());
    }
    let left_over = facts.lent && stray(facts.uid);
    if facts.uid != owner && !left_over {
        return no(match is_vmm_uid(facts.uid) {
            true => "is in use by another VM".into(),
            false => format!("belongs to user {}, not to {owner}", facts.uid),
        });
    }
    let world_readable = facts.mode & 0o004 != 0 && facts.uid == owner;
    match (read_only, world_readable) {
        (false, _) => Ok(Use::Owned),
        (true, true) => Ok(Use::Shared),
        // It holds the guest's keys and belongs to this VM alone.
        (true, false) if role == Role::Drive(DriveRole::Config) => Ok(Use::Owned),
        (true, false) => no(format!(
            "is shared and must be readable for all (mode 0644, not {:04o})",
            facts.mode
        )),
    }
}

/// Makes the file the VMM's own, and the owner's by access list.
pub(crate) fn give(file: BorrowedFd<'_>, vmm: u32, owner: u32) -> Result<(), Refusal> {
    let failed = || "failed to give a drive to the VMM".to_owned();
    fchown(file, Some(Uid::from_raw(vmm)), Some(Gid::from_raw(vmm))).or_refuse(failed)?;
    acl::clear(file).or_refuse(failed)?;
    fchmod(file, Mode::RUSR | Mode::WUSR).or_refuse(failed)?;
    share_with(file, acl::ACCESS, owner, 6)
}

/// Makes it the owner's again, and nobody else's.
pub(crate) fn take_back(file: impl AsFd, owner: u32) -> Result<(), rustix::io::Errno> {
    acl::clear(&file)?;
    fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    fchown(&file, Some(Uid::from_raw(owner)), None)
}

/// Lets the owner in beside the VMM. Root needs no list.
pub(crate) fn share_with(
    file: impl AsFd,
    attribute: &str,
    owner: u32,
    perm: u16,
) -> Result<(), Refusal> {
    if owner == 0 {
        return Ok(());
    }
    acl::set(file, attribute, owner, perm).or_refuse_as(RefusalCode::HostNotReady, || {
        "the file system of the VM's folder has no access control lists".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UID_BASE;

    const OWNER: u32 = 1000;

    fn file() -> Facts {
        Facts {
            kind: FileType::RegularFile,
            uid: OWNER,
            mode: 0o644,
            links: 1,
            length: 4096,
            readable: true,
            writable: false,
            in_user_space: false,
            lent: false,
        }
    }

    fn work(facts: &Facts) -> Result<Use, Refusal> {
        decide(Role::Drive(DriveRole::Work), false, facts, OWNER, |uid| {
            uid == UID_BASE + 7
        })
    }

    #[test]
    fn what_the_owner_opened_is_taken() {
        assert_eq!(work(&file()), Ok(Use::Owned));
        assert_eq!(
            decide(Role::Kernel, true, &file(), OWNER, |_| false),
            Ok(Use::Shared)
        );
    }

    #[test]
    fn everything_else_is_not() {
        let bad: [(&str, Facts); 6] = [
            (
                "regular",
                Facts {
                    kind: FileType::Symlink,
                    ..file()
                },
            ),
            (
                "regular",
                Facts {
                    kind: FileType::BlockDevice,
                    ..file()
                },
            ),
            (
                "opened",
                Facts {
                    readable: false,
                    ..file()
                },
            ),
            ("deleted", Facts { links: 0, ..file() }),
            ("belongs", Facts { uid: 0, ..file() }),
            (
                "another VM",
                Facts {
                    uid: UID_BASE,
                    lent: true,
                    ..file()
                },
            ),
        ];
        for (why, facts) in bad {
            let refusal = work(&facts).unwrap_err();
            assert!(refusal.message.contains(why), "{refusal}");
            assert_eq!(refusal.code, RefusalCode::Descriptor);
        }
    }

    #[test]
    fn a_drive_left_by_a_crash_is_taken_again() {
        let left = Facts {
            uid: UID_BASE + 7,
            lent: true,
            ..file()
        };
        assert_eq!(work(&left), Ok(Use::Owned));
        assert!(
            work(&Facts {
                lent: false,
                ..left
            })
            .is_err(),
            "not by our doing"
        );
    }

    #[test]
    fn shared_files_must_be_readable_for_all() {
        let private = Facts {
            mode: 0o600,
            ..file()
        };
        assert!(decide(Role::Kernel, true, &private, OWNER, |_| false).is_err());
        let config = Role::Drive(DriveRole::Config);
        assert_eq!(
            decide(config, true, &private, OWNER, |_| false),
            Ok(Use::Owned)
        );
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        let folder = Facts {
            kind: FileType::Directory,
            ..file()
        };
        assert!(check_folder(&folder, OWNER).is_ok());
        assert!(check_folder(&folder, OWNER + 1).is_err());
        assert!(check_folder(&file(), OWNER).is_err());
    }
}
