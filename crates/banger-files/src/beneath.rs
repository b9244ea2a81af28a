//! Paths below an open folder, without links.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Opens what stands at that path; no link leads anywhere, and nothing leads out.
pub(crate) fn open(
    base: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // A rename meanwhile can make the kernel unsure whether the path led out: it says EAGAIN.
    loop {
        match rustix::fs::openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens a folder there; without a path the base itself.
pub(crate) fn open_folder(
    base: BorrowedFd<'_>,
    path: Option<&[u8]>,
) -> rustix::io::Result<OwnedFd> {
    let path = path.map_or(Path::new("."), |path| Path::new(OsStr::from_bytes(path)));
    open(base, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// The status of an entry itself.
pub(crate) fn stat(folder: BorrowedFd<'_>, name: &Path) -> rustix::io::Result<Stat> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// The names in a folder, but `.` and `..`.
pub(crate) fn names(folder: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let mut names = vec![];
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_owned();
        if ![c".", c".."].contains(&name.as_c_str()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes an entry with all that it holds, following no link. Nothing there is fine.
///
/// # Errors
/// When something of it cannot be removed.
pub fn remove_tree(folder: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // EPERM is what POSIX has for a folder.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    for entry in names(inner.as_fd())? {
        remove_tree(
            inner.as_fd(),
            Path::new(OsStr::from_bytes(entry.to_bytes())),
        )?;
    }
    Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
}

/// What kind of file a status is of.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}
