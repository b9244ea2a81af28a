//! The VMM's own directory, `run` in the VM's folder: fixed names, links and sockets.
//!
//! It is filled while only root may enter it, and handed over in the end: until then nobody can
//! put another file behind a name that the helper is about to change.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use banger_root_proto::{Refusal, RefusalCode};
use rustix::fs::{
    AtFlags, Dev, Dir, FileType, Mode, OFlags, StatVfsMountFlags, chmodat, chownat, fchmod, fchown,
    fstat, fstatvfs, linkat, mkdirat, mknodat, open, openat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::process::{Gid, Uid};

use crate::qemu::Role;
use crate::refuse::{OrRefuse as _, refuse};
use crate::uids::is_vmm_uid;
use crate::{acl, drives};

const NAME: &str = "run";
/// A VMM of ours makes no directories; a hostile one gets no deep recursion out of us.
const MAX_DEPTH: usize = 16;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The directory while it is being filled.
#[derive(Debug)]
pub(crate) struct RunDir {
    dir: OwnedFd,
    owner: u32,
    uid: u32,
}

impl RunDir {
    /// Makes it, for the VMM of user `uid`. There must be none.
    pub(crate) fn create(folder: BorrowedFd<'_>, owner: u32, uid: u32) -> Result<Self, Refusal> {
        let failed = || "failed to make `run` in the VM's folder".to_owned();
        mkdirat(folder, NAME, Mode::RWXU).or_refuse(failed)?;
        let dir = openat(folder, NAME, DIRECTORY, Mode::empty()).or_refuse(failed)?;
        let stat = fstat(&dir).or_refuse(failed)?;
        // The folder is the owner's, who may have put another one there meanwhile.
        if stat.st_uid != rustix::process::geteuid().as_raw() || !is_empty(&dir) {
            let message = "`run` in the VM's folder was exchanged";
            return Err(refuse(RefusalCode::Descriptor, message));
        }
        drives::share_with(&dir, acl::DEFAULT, owner, 7)?;
        Ok(Self { dir, owner, uid })
    }

    /// Gives a file one more name, in here.
    pub(crate) fn link(&self, role: Role, file: BorrowedFd<'_>) -> Result<(), Refusal> {
        match linkat(file, "", &self.dir, role.as_str(), AtFlags::EMPTY_PATH) {
            Err(Errno::XDEV) => {
                let message = format!(
                    "the file for `{}` is on another file system than the VM's folder",
                    role.as_str()
                );
                Err(refuse(RefusalCode::Descriptor, message))
            }
            other => other.or_refuse(|| format!("failed to link `{}`", role.as_str())),
        }
    }

    /// Makes a node for a block device that only the VMM may open.
    pub(crate) fn node(&self, role: Role, device: Dev) -> Result<(), Refusal> {
        let name = role.as_str();
        let failed = || format!("failed to make the device node `{name}`");
        if fstatvfs(&self.dir)
            .or_refuse(failed)?
            .f_flag
            .contains(StatVfsMountFlags::NODEV)
        {
            let message = "the file system of the VM's folder is mounted `nodev`: no device can be \
                           opened there; use another `storage` than dm_snapshot";
            return Err(refuse(RefusalCode::HostNotReady, message));
        }
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(&self.dir, name, FileType::BlockDevice, mode, device).or_refuse(failed)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(&self.dir, name, Some(uid), Some(gid), flags).or_refuse(failed)
    }

    /// A listening stream socket.
    pub(crate) fn listen(&self, name: &str) -> Result<OwnedFd, Refusal> {
        let failed = || format!("failed to make the socket `{name}`");
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .or_refuse(failed)?;
        let path = format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd());
        let address = SocketAddrUnix::new(path).or_refuse(failed)?;
        bind(&socket, &address).or_refuse(failed)?;
        listen(&socket, 128).or_refuse(failed)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        // The group's bits are the mask of the owner's entry in the inherited access list.
        chmodat(&self.dir, name, Mode::RWXU | Mode::RWXG, AtFlags::empty()).or_refuse(failed)?;
        chownat(
            &self.dir,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .or_refuse(failed)?;
        Ok(socket)
    }

    /// A log that the VMM's processes write through their descriptor only.
    pub(crate) fn log(&self, name: &str) -> Result<File, Refusal> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::CLOEXEC;
        openat(&self.dir, name, flags, Mode::from_raw_mode(0o660))
            .map(File::from)
            .or_refuse(|| format!("failed to make the log `{name}`"))
    }

    /// Hands it over to the VMM, with the owner beside it.
    pub(crate) fn hand_over(self) -> Result<OwnedFd, Refusal> {
        let failed = || "failed to hand `run` over to the VMM".to_owned();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        fchown(&self.dir, Some(uid), Some(gid)).or_refuse(failed)?;
        fchmod(&self.dir, Mode::RWXU).or_refuse(failed)?;
        drives::share_with(&self.dir, acl::ACCESS, self.owner, 7)?;
        Ok(self.dir)
    }
}

/// Removes `run` and all in it; drives that were given to the VMM become the owner's again. Its
/// processes must have ended; `in_use` says which users may still have some.
pub(crate) fn remove(
    folder: BorrowedFd<'_>,
    owner: u32,
    in_use: impl Fn(u32) -> bool,
) -> Result<(), Refusal> {
    let failed = || "failed to remove `run` from the VM's folder".to_owned();
    let dir = match openat(folder, NAME, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(not_ours()),
        other => other.or_refuse(failed)?,
    };
    let stat = fstat(&dir).or_refuse(failed)?;
    let unfinished = stat.st_uid == 0 && stat.st_mode & 0o7777 == 0o700;
    if !unfinished && !is_vmm_uid(stat.st_uid) {
        return Err(not_ours());
    }
    if is_vmm_uid(stat.st_uid) && in_use(stat.st_uid) {
        return Err(refuse(
            RefusalCode::Busy,
            "`run` in the VM's folder belongs to another VM",
        ));
    }
    give_back(&dir, stat.st_uid, owner)
        .or_refuse(|| "failed to give a drive back to its owner".into())?;
    empty(&dir, 0).or_refuse(failed)?;
    match unlinkat(folder, NAME, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => other.or_refuse(failed),
    }
}

fn not_ours() -> Refusal {
    let message = "`run` in the VM's folder is not a directory that this helper made";
    refuse(RefusalCode::Descriptor, message)
}

/// Drives that belong to the VMM's user (in a directory that was never handed over: to any VMM's
/// user) were the owner's at launch.
fn give_back(dir: &OwnedFd, vmm: u32, owner: u32) -> Result<(), Errno> {
    for name in names(dir)? {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = openat(dir, &name, flags, Mode::empty()) else {
            continue;
        };
        let stat = fstat(&file)?;
        let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        let lent = is_vmm_uid(stat.st_uid) && (vmm == 0 || stat.st_uid == vmm);
        if !regular
            || !lent
            || !["root", "work", "config"]
                .iter()
                .any(|d| *d.as_bytes() == *name.as_bytes())
        {
            continue;
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        drives::take_back(file, owner)?;
    }
    Ok(())
}

/// Removes everything in a directory, following nothing.
fn empty(dir: impl AsFd, depth: usize) -> Result<(), Errno> {
    for name in names(&dir)? {
        match unlinkat(&dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if depth < MAX_DEPTH => {
                let inner = openat(&dir, &name, DIRECTORY, Mode::empty())?;
                empty(&inner, depth + 1)?;
                unlinkat(&dir, &name, AtFlags::REMOVEDIR)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn names(dir: impl AsFd) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut names = vec![];
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn is_empty(dir: &OwnedFd) -> bool {
    names(dir).is_ok_and(|names| names.is_empty())
}
