//! Open files and folders, and changes of what is not open.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Refusal;
use super::attributes::{self, Changes};
use super::wire::{Answer, Code, MAX_DATA, tell};

/// So many may be open at a time.
const MAX_OPEN: usize = 512;
/// An answer with names may grow to this, in bytes, before the next one is begun.
const NAMES: usize = 64 << 10;
/// What clients want of a file that they open.
const READ: u32 = 1;
const WRITE: u32 = 2;
const APPEND: u32 = 4;
const CREATE: u32 = 8;
const TRUNCATE: u32 = 0x10;
const EXCLUSIVE: u32 = 0x20;

/// A place in a file, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offset(pub(super) u64);

#[derive(Debug)]
enum Open {
    File(OwnedFd),
    Folder(Dir, OwnedFd),
}

/// What is open.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: u64,
    open: HashMap<u64, Open>,
}

/// Permissions as the system has them.
pub(super) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}

impl Handles {
    fn put(&mut self, open: Open) -> Result<[u8; 8], Refusal> {
        if self.open.len() >= MAX_OPEN {
            return Err(Errno::MFILE.into());
        }
        self.next += 1;
        self.open.insert(self.next, open);
        Ok(self.next.to_be_bytes())
    }

    fn get(&mut self, handle: &[u8]) -> Result<&mut Open, Refusal> {
        let number = handle.try_into().map(u64::from_be_bytes);
        let open = number.ok().and_then(|number| self.open.get_mut(&number));
        open.ok_or(Refusal::System(Errno::BADF))
    }

    /// Opens a file, and gives its handle.
    pub(super) fn open(
        &mut self,
        path: &[u8],
        wanted: u32,
        changes: Changes,
    ) -> Result<[u8; 8], Refusal> {
        let mut flags = match (wanted & READ != 0, wanted & WRITE != 0) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        for (asked, flag) in [
            (APPEND, OFlags::APPEND),
            (CREATE, OFlags::CREATE),
            (TRUNCATE, OFlags::TRUNC),
            (EXCLUSIVE, OFlags::EXCL),
        ] {
            flags.set(flag, wanted & asked != 0);
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let made = mode(changes.mode.unwrap_or(0o666));
        self.put(Open::File(rustix::fs::open(path, flags, made)?))
    }

    /// Opens a folder, and gives its handle.
    pub(super) fn open_folder(&mut self, path: &[u8]) -> Result<[u8; 8], Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        self.put(Open::Folder(Dir::read_from(&fd)?, fd))
    }

    pub(super) fn close(&mut self, handle: &[u8]) -> Result<(), Refusal> {
        self.get(handle)?;
        let number = handle.try_into().map(u64::from_be_bytes);
        self.open.remove(&number.unwrap_or_default());
        Ok(())
    }

    /// The descriptor behind a handle.
    pub(super) fn file(&mut self, handle: &[u8]) -> Result<BorrowedFd<'_>, Refusal> {
        Ok(match &*self.get(handle)? {
            Open::File(fd) | Open::Folder(_, fd) => fd.as_fd(),
        })
    }

    /// Reads at most that much; nothing more there is a refusal of its own.
    pub(super) fn read(
        &mut self,
        handle: &[u8],
        Offset(offset): Offset,
        length: u32,
    ) -> Result<Vec<u8>, Refusal> {
        let file = self.file(handle)?;
        let mut buffer = vec![0; usize::try_from(length.min(MAX_DATA)).unwrap_or_default()];
        let count = loop {
            match rustix::io::pread(file, &mut buffer, offset) {
                Err(Errno::INTR) => {}
                // A pipe or terminal has no places.
                Err(Errno::SPIPE) => break rustix::io::read(file, &mut buffer)?,
                result => break result?,
            }
        };
        if count == 0 && length > 0 {
            return Err(Refusal::Code(Code::Eof));
        }
        buffer.truncate(count);
        Ok(buffer)
    }

    /// Writes all of it. A file that is only appended to heeds no place (pwrite(2)).
    pub(super) fn write(
        &mut self,
        handle: &[u8],
        Offset(mut offset): Offset,
        mut bytes: &[u8],
    ) -> Result<(), Refusal> {
        let file = self.file(handle)?;
        while !bytes.is_empty() {
            let count = match rustix::io::pwrite(file, bytes, offset) {
                Err(Errno::INTR) => continue,
                Err(Errno::SPIPE) => rustix::io::write(file, bytes)?,
                result => result?,
            };
            bytes = &bytes[count..];
            offset = offset.saturating_add(count as u64);
        }
        Ok(())
    }

    /// The next names of a folder.
    pub(super) fn read_folder(&mut self, handle: &[u8], id: u32) -> Result<Answer, Refusal> {
        let Open::Folder(folder, fd) = self.get(handle)? else {
            return Err(Errno::NOTDIR.into());
        };
        let (mut count, mut body) = (0, Answer::empty());
        while body.len() < NAMES {
            let Some(entry) = folder.next() else { break };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            // Gone meanwhile.
            let Ok(stat) = rustix::fs::statat(&*fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
            else {
                continue;
            };
            body = body
                .string(name)
                .string(&attributes::long_name(name, &stat));
            body = attributes::write(body, &stat);
            count += 1;
        }
        if count == 0 {
            return Err(Refusal::Code(Code::Eof));
        }
        Ok(Answer::new(tell::NAME, id).u32(count).append(&body))
    }
}

/// Changes what stands at a path, or the link itself there.
pub(super) fn change(path: &[u8], changes: Changes, follow: bool) -> Result<(), Refusal> {
    let flags = match follow {
        true => AtFlags::empty(),
        false => AtFlags::SYMLINK_NOFOLLOW,
    };
    if let Some(size) = changes.size {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        rustix::fs::ftruncate(file, size)?;
    }
    if let Some((user, group)) = changes.owner {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::fs::chownat(CWD, path, Some(user), Some(group), flags)?;
    }
    if let Some(bits) = changes.mode {
        rustix::fs::chmodat(CWD, path, mode(bits), flags)?;
    }
    if let Some(times) = changes.times {
        rustix::fs::utimensat(CWD, path, &timestamps(times), flags)?;
    }
    Ok(())
}

/// Changes what is open.
pub(super) fn change_open(file: BorrowedFd<'_>, changes: Changes) -> Result<(), Refusal> {
    if let Some(size) = changes.size {
        rustix::fs::ftruncate(file, size)?;
    }
    if let Some((user, group)) = changes.owner {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::fs::fchown(file, Some(user), Some(group))?;
    }
    if let Some(bits) = changes.mode {
        rustix::fs::fchmod(file, mode(bits))?;
    }
    if let Some(times) = changes.times {
        rustix::fs::futimens(file, &timestamps(times))?;
    }
    Ok(())
}

fn timestamps((access, modification): (u32, u32)) -> Timestamps {
    let at = |seconds: u32| Timespec {
        tv_sec: seconds.into(),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: at(access),
        last_modification: at(modification),
    }
}

/// Renames, unless something has the new name already.
pub(super) fn rename(from: &[u8], to: &[u8]) -> Result<(), Refusal> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without that.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if rustix::fs::lstat(to).is_ok() {
                return Err(Errno::EXIST.into());
            }
            Ok(rustix::fs::rename(from, to)?)
        }
        result => Ok(result?),
    }
}

/// Where a path leads from where one is, links followed. Its last parts need not be there: a client asks before it makes them.
pub(super) fn real_path(path: &[u8]) -> Result<Vec<u8>, Refusal> {
    let given = Path::new(OsStr::from_bytes(path));
    let system = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    match std::fs::canonicalize(given) {
        Ok(real) => return Ok(real.into_os_string().as_encoded_bytes().to_vec()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(system(error).into()),
    }
    let mut walked = std::env::current_dir().map_err(system)?;
    for part in given.components() {
        match part {
            Component::RootDir | Component::Prefix(_) => walked = PathBuf::from("/"),
            Component::CurDir => {}
            Component::ParentDir => {
                walked.pop();
            }
            Component::Normal(name) => {
                walked.push(name);
                if let Ok(real) = std::fs::canonicalize(&walked) {
                    walked = real;
                }
            }
        }
    }
    Ok(walked.into_os_string().as_encoded_bytes().to_vec())
}
