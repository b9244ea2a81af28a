//! The folder that a VMM runs in: `run` in the VM's own folder, owned by the VMM's uid, holding
//! fixed names and nothing else. Everything is done on open handles; no link is followed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use banger_root_proto::RefusalCode;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fchmod, fchown, fstat, linkat, mkdirat, openat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::process::{Gid, Uid};

use crate::acl;
use crate::config::HelperConfig;
use crate::error::{Context, OpError};

const NAME: &str = "run";
const DIR: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Who may do what in the folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Users {
    pub(crate) vmm: u32,
    pub(crate) owner: u32,
    pub(crate) owner_group: u32,
}

impl Users {
    pub(crate) fn new(config: &HelperConfig, vmm: u32) -> Self {
        Self {
            vmm,
            owner: config.owner_uid,
            owner_group: config.owner_gid,
        }
    }
}

fn descriptor_error(message: String) -> OpError {
    OpError::refused(RefusalCode::Descriptor, message)
}

/// Checks that a handle is a folder of the owner's.
pub(crate) fn check_folder(folder: BorrowedFd<'_>, owner: u32) -> Result<(), OpError> {
    let stat = fstat(folder).context(|| "failed to look at the VM's folder".to_owned())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(descriptor_error(
            "the VM's folder is not a directory".into(),
        ));
    }
    if stat.st_uid != owner {
        return Err(descriptor_error(
            "the VM's folder belongs to another user".into(),
        ));
    }
    Ok(())
}

/// Checks that a handle is a regular file of the owner's (or of this VM's VMM, from an earlier run).
fn check_file(file: BorrowedFd<'_>, name: &str, users: Users) -> Result<Stat, OpError> {
    let stat = fstat(file).context(|| format!("failed to look at `{name}`"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(descriptor_error(format!("`{name}` is not a regular file")));
    }
    if stat.st_uid != users.owner && stat.st_uid != users.vmm {
        return Err(descriptor_error(format!(
            "`{name}` belongs to another user"
        )));
    }
    Ok(stat)
}

/// Makes the folder anew.
pub(crate) fn create(folder: BorrowedFd<'_>, users: Users) -> Result<OwnedFd, OpError> {
    let what = || format!("failed to make the folder `{NAME}` of the VM");
    mkdirat(folder, NAME, Mode::RWXU).context(what)?;
    let run = openat(folder, NAME, OFlags::RDONLY | DIR, Mode::empty()).context(what)?;
    let (uid, gid) = (Uid::from_raw(users.vmm), Gid::from_raw(users.vmm));
    fchown(&run, Some(uid), Some(gid)).context(what)?;
    if users.owner != 0 {
        let what = || "failed to let the owner into the VMM's folder".to_owned();
        acl::grant(&run, acl::Kind::Access, users.owner, 7).context(what)?;
        acl::grant(&run, acl::Kind::Default, users.owner, 7).context(what)?;
    }
    Ok(run)
}

/// Links a file that only is read: it stays the owner's and must be readable by everyone.
pub(crate) fn link_shared(
    run: &OwnedFd,
    file: BorrowedFd<'_>,
    name: &str,
    users: Users,
) -> Result<(), OpError> {
    let stat = check_file(file, name, users)?;
    if stat.st_mode & 0o004 == 0 {
        let message =
            format!("`{name}` is not readable by others (mode 0644), which the VMM needs");
        return Err(descriptor_error(message));
    }
    link(run, file, name)
}

/// Links a file that the VMM writes: it becomes the VMM's, and the owner keeps access.
pub(crate) fn link_writable(
    run: &OwnedFd,
    file: BorrowedFd<'_>,
    name: &str,
    users: Users,
) -> Result<(), OpError> {
    let stat = check_file(file, name, users)?;
    if stat.st_nlink > 1 {
        return Err(descriptor_error(format!(
            "`{name}` has another name somewhere"
        )));
    }
    let what = || format!("failed to hand `{name}` to the VMM");
    let (uid, gid) = (Uid::from_raw(users.vmm), Gid::from_raw(users.vmm));
    fchown(file, Some(uid), Some(gid)).context(what)?;
    fchmod(file, Mode::RUSR | Mode::WUSR).context(what)?;
    if users.owner != 0 {
        acl::grant(file, acl::Kind::Access, users.owner, 6).context(what)?;
    }
    link(run, file, name)
}

fn link(run: &OwnedFd, file: BorrowedFd<'_>, name: &str) -> Result<(), OpError> {
    match linkat(file, "", run, name, AtFlags::EMPTY_PATH) {
        Err(Errno::XDEV) => {
            let message = format!("`{name}` lies on another file system than the VM's folder");
            Err(descriptor_error(message))
        }
        result => result.context(|| format!("failed to link `{name}` into the VMM's folder")),
    }
}

/// A listening socket in the folder, for the VMM's uid and the owner.
pub(crate) fn listener(run: &OwnedFd, name: &str, users: Users) -> Result<OwnedFd, OpError> {
    use std::os::fd::AsRawFd;
    let what = || format!("failed to make the socket `{name}`");
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(what)?;
    // A path through /proc stays short, whatever the folder's real path is (unix(7): 107 bytes).
    let path = format!("/proc/self/fd/{}/{name}", run.as_raw_fd());
    let address = SocketAddrUnix::new(path.as_str()).context(what)?;
    bind(&socket, &address).context(what)?;
    listen(&socket, 128).context(what)?;
    let node = openat(
        run,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(what)?;
    let (uid, gid) = (Uid::from_raw(users.vmm), Gid::from_raw(users.owner_group));
    rustix::fs::chownat(&node, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).context(what)?;
    let by_proc = format!("/proc/self/fd/{}", node.as_raw_fd());
    rustix::fs::chmod(by_proc.as_str(), Mode::RWXU | Mode::RWXG).context(what)?;
    Ok(socket)
}

/// Makes an empty file of the VMM's.
pub(crate) fn log_file(run: &OwnedFd, name: &str, users: Users) -> Result<OwnedFd, OpError> {
    let what = || format!("failed to make the log `{name}`");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::CLOEXEC;
    let file = openat(run, name, flags, Mode::RUSR | Mode::WUSR).context(what)?;
    fchown(
        &file,
        Some(Uid::from_raw(users.vmm)),
        Some(Gid::from_raw(users.vmm)),
    )
    .context(what)?;
    if users.owner != 0 {
        acl::grant(&file, acl::Kind::Access, users.owner, 6).context(what)?;
    }
    Ok(file)
}

/// Gives the VMM's files back to the owner and removes the folder. Absent is Ok.
pub(crate) fn remove(folder: BorrowedFd<'_>, users: Users) -> Result<(), OpError> {
    let what = || format!("failed to remove the folder `{NAME}` of the VM");
    let run = match openat(folder, NAME, OFlags::RDONLY | DIR, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        result => result.context(what)?,
    };
    let stat = fstat(&run).context(what)?;
    if stat.st_uid != users.vmm && stat.st_uid != 0 {
        let message = format!("the folder `{NAME}` of the VM is not the helper's");
        return Err(OpError::refused(RefusalCode::Unknown, message));
    }
    for entry in Dir::read_from(&run).context(what)? {
        let entry = entry.context(what)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        give_back(&run, name, users).context(what)?;
        unlinkat(&run, name, AtFlags::empty()).context(what)?;
    }
    unlinkat(folder, NAME, AtFlags::REMOVEDIR).context(what)
}

/// A drive that the VMM wrote has another name in the VM's folder: there it is the owner's again.
fn give_back(run: &OwnedFd, name: &std::ffi::CStr, users: Users) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(run, name, flags, Mode::empty()) else {
        return Ok(());
    };
    let stat = fstat(&file)?;
    let is_drive = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if is_drive && stat.st_nlink > 1 && stat.st_uid == users.vmm {
        let (uid, gid) = (Uid::from_raw(users.owner), Gid::from_raw(users.owner_group));
        fchown(file.as_fd(), Some(uid), Some(gid))?;
    }
    Ok(())
}
