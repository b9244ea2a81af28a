//! Writing records to disk.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use banger_guest_proto::{CUT_SHORT, Entry, EntryKind, FileTime, FilesDone, Record, RelPath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::beneath;

/// How what comes is treated.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// What stands in the way is removed, folders that are missing are made, and entries can be removed.
    pub exact: bool,
    /// No file has its name before it is whole. Without: none that is replaced, and no long one.
    pub unseen: bool,
    /// Setuid, setgid and sticky bits are kept. Not for what comes from a guest.
    pub special_bits: bool,
    /// First names that are expected, and what each becomes. Without: any.
    pub first_names: Option<HashMap<Vec<u8>, Vec<u8>>>,
}

/// From so many bytes on a file is long: until it is whole it has no name, also when nothing has that yet. Of shorter ones
/// it would take longer than writing them.
const LONG: u64 = 1 << 20;

/// Why a transfer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// There is no room.
    #[error("no room for `{path}`")]
    Full {
        /// What there was no room for.
        path: RelPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Content or a hole without a file before it.
    #[error("content came that belongs to no file")]
    OutOfPlace,
    /// A name that was not asked for.
    #[error("`{path}` came, which was not asked for")]
    NotAskedFor {
        /// What came.
        path: RelPath,
    },
}

/// A file that is being written.
#[derive(Debug)]
struct Open {
    file: File,
    path: RelPath,
    /// Where it is until it is whole.
    place: Place,
    mode: u16,
    mtime: FileTime,
    linked: bool,
    /// As large as this it was announced; what is not known beforehand has 0.
    size: u64,
    /// So much of it has come.
    came: u64,
    /// It ends with a hole.
    hole_at_end: bool,
}

/// Writes what comes below a folder.
#[derive(Debug)]
pub struct Receiver {
    base: OwnedFd,
    policy: Policy,
    umask: u16,
    /// The folder of the last entry: the next one is mostly in it, too.
    folder: Option<(Vec<u8>, OwnedFd)>,
    open: Option<Open>,
    /// Whether content may come: after a file, also one that is passed over.
    in_file: bool,
    /// Folders whose mode and time are set at the end.
    folders: Vec<(RelPath, u16, FileTime)>,
    /// Files that may get further names: what is there, by the path that it came under.
    linked: HashMap<RelPath, (u64, u64)>,
    done: FilesDone,
}

/// Where a file is that is not whole yet. Nobody else is in its way: what somebody began before, or begins at the
/// same time, has another one.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// At its name, which nothing had; only what is not long.
    Own,
    /// Nowhere (`O_TMPFILE`, open(2)): it goes with the last descriptor. It replaces what has its name.
    Nowhere,
    /// Beside what it replaces, where a file system cannot do without a name.
    Beside(PathBuf),
}

/// Of a file that is not whole yet, or just become so.
fn temporary() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(".banger-part-{}-{number}", std::process::id()).into()
}

/// The path by which a descriptor can be given a name (open(2), `O_TMPFILE`).
fn path_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Opens a file that will replace another one.
fn open_anew(
    folder: BorrowedFd<'_>,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<(OwnedFd, Place)> {
    let unnamed = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::openat(folder, ".", unnamed, mode) {
        let file = File::from(file);
        if path_of(&file).symlink_metadata().is_ok() {
            return Ok((file.into(), Place::Nowhere));
        }
    }
    let name = temporary();
    let file = rustix::fs::openat(folder, &name, flags, mode)?;
    Ok((file, Place::Beside(name)))
}

fn name_of(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

fn times(mtime: FileTime) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanos.into(),
        },
    }
}

fn is_full(error: Errno) -> bool {
    matches!(error, Errno::NOSPC | Errno::DQUOT)
}

/// This process's file mode creation mask (proc_pid_status(5)); reading it any other way changes it.
fn umask() -> u16 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let mask = line.and_then(|mask| u16::from_str_radix(mask.trim(), 8).ok());
    mask.unwrap_or(0o777)
}

impl Receiver {
    /// Below this folder.
    #[must_use]
    pub fn new(base: OwnedFd, policy: Policy) -> Self {
        Self {
            base,
            policy,
            umask: umask(),
            folder: None,
            open: None,
            in_file: false,
            folders: vec![],
            linked: HashMap::new(),
            done: FilesDone::default(),
        }
    }

    /// Takes a record of a transfer, other than control messages and the end.
    ///
    /// # Errors
    /// [`ReceiveError`] when the transfer cannot go on. What concerns one path only is noted instead.
    pub fn take(&mut self, record: Record<'_>) -> Result<(), ReceiveError> {
        match record {
            Record::Entry(entry) => self.entry(entry),
            Record::Data(bytes) => self.data(bytes),
            Record::Hole(bytes) => self.hole(bytes),
            Record::Remove(path) => {
                self.close()?;
                if !self.policy.exact {
                    return Err(ReceiveError::NotAskedFor { path });
                }
                let removed = self.remove(&path);
                self.note(&path, removed)
            }
            Record::Want(path) => Err(ReceiveError::NotAskedFor { path }),
            Record::Control(_) | Record::End => Err(ReceiveError::OutOfPlace),
        }
    }

    /// All has come: folders get their modes and times.
    ///
    /// # Errors
    /// [`ReceiveError`] when there is no room for the last file.
    pub fn finish(mut self) -> Result<FilesDone, ReceiveError> {
        self.close()?;
        for (path, mode, mtime) in std::mem::take(&mut self.folders).into_iter().rev() {
            let set =
                beneath::open_folder(self.base.as_fd(), Some(path.as_bytes())).and_then(|folder| {
                    rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode.into()))?;
                    rustix::fs::futimens(&folder, &times(mtime))
                });
            self.note(&path, set)?;
        }
        Ok(std::mem::take(&mut self.done))
    }

    fn note(&mut self, path: &RelPath, result: rustix::io::Result<()>) -> Result<(), ReceiveError> {
        match result {
            Ok(()) => Ok(()),
            Err(error) if is_full(error) => Err(ReceiveError::Full {
                path: path.clone(),
                source: error.into(),
            }),
            Err(error) => {
                let what = match error {
                    Errno::LOOP | Errno::NOTDIR => {
                        "a link or a file stands where a folder belongs; it is not followed"
                            .to_owned()
                    }
                    Errno::ISDIR => "a folder has its name".to_owned(),
                    Errno::INVAL => "something that is no file has its name".to_owned(),
                    error => io::Error::from(error).to_string(),
                };
                self.done.problem(path.as_bytes(), what);
                Ok(())
            }
        }
    }

    /// The path here of what came under a path.
    fn renamed(&self, path: &RelPath) -> Result<RelPath, ReceiveError> {
        let Some(names) = &self.policy.first_names else {
            return Ok(path.clone());
        };
        let renamed = names
            .get(path.first())
            .and_then(|name| path.with_first(name).ok());
        renamed.ok_or_else(|| ReceiveError::NotAskedFor { path: path.clone() })
    }

    fn entry(&mut self, mut entry: Entry) -> Result<(), ReceiveError> {
        self.close()?;
        entry.path = self.renamed(&entry.path)?;
        if !self.policy.special_bits {
            entry.mode &= 0o777;
        }
        let path = entry.path.clone();
        self.in_file = matches!(entry.kind, EntryKind::File { .. });
        let made = match entry.kind {
            EntryKind::File { size, linked } => self.file(&path, &entry, size, linked),
            EntryKind::Folder => self.make_folder(&path, entry.mode, entry.mtime),
            EntryKind::Symlink(target) => self.symlink(&path, &target, entry.mtime),
            EntryKind::HardLink(first) => {
                let first = self.renamed(&first)?;
                self.hard_link(&path, &first)
            }
            EntryKind::Special | EntryKind::Missing => {
                return Err(ReceiveError::NotAskedFor { path });
            }
        };
        if made.is_ok() {
            self.done.files += 1;
        }
        self.note(&path, made)
    }

    /// Opens the folder that a path stands in.
    fn enter(&mut self, path: &RelPath) -> rustix::io::Result<()> {
        let folder = path.split().0.unwrap_or_default();
        if self.folder.as_ref().is_some_and(|(last, _)| last == folder) {
            return Ok(());
        }
        let wanted = (!folder.is_empty()).then_some(folder);
        let opened = match beneath::open_folder(self.base.as_fd(), wanted) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if self.policy.exact => {
                self.make_parents(path)?;
                beneath::open_folder(self.base.as_fd(), wanted)?
            }
            other => other?,
        };
        self.folder = Some((folder.to_vec(), opened));
        Ok(())
    }

    /// Makes the folders that lead to a path, in place of whatever stands there.
    fn make_parents(&mut self, path: &RelPath) -> rustix::io::Result<()> {
        let mut inner = self.base.try_clone().map_err(errno)?;
        for parent in path.parents() {
            let name = parent.rsplit(|byte| *byte == b'/').next().unwrap_or(parent);
            let name = name_of(name);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = |folder: &OwnedFd| rustix::fs::openat(folder, name, flags, Mode::empty());
            inner = match open(&inner) {
                Ok(next) => next,
                Err(error @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                    if error != Errno::NOENT {
                        rustix::fs::unlinkat(&inner, name, AtFlags::empty())?;
                    }
                    rustix::fs::mkdirat(&inner, name, Mode::from_raw_mode(0o755))?;
                    open(&inner)?
                }
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// The folder that was entered, and the path's last name.
    fn place<'a>(&'a mut self, path: &'a RelPath) -> rustix::io::Result<(&'a OwnedFd, &'a Path)> {
        self.enter(path)?;
        let folder = self.folder.as_ref().map(|(_, folder)| folder);
        Ok((folder.unwrap_or(&self.base), name_of(path.split().1)))
    }

    fn file(
        &mut self,
        path: &RelPath,
        entry: &Entry,
        size: u64,
        linked: bool,
    ) -> rustix::io::Result<()> {
        let exact = self.policy.exact;
        let (mode, mtime) = (entry.mode, entry.mtime);
        let unseen = self.policy.unseen || size >= LONG;
        let (folder, name) = self.place(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let at_first = Mode::from_raw_mode((mode & 0o777 | 0o200).into());
        let (file, place) = if unseen {
            match clear(folder, name, exact, false) {
                Ok(()) | Err(Errno::NOENT) => open_anew(folder.as_fd(), flags, at_first)?,
                Err(error) => return Err(error),
            }
        } else {
            match rustix::fs::openat(folder, name, flags, at_first) {
                Ok(file) => (file, Place::Own),
                Err(Errno::EXIST) => {
                    clear(folder, name, exact, false)?;
                    open_anew(folder.as_fd(), flags, at_first)?
                }
                Err(error) => return Err(error),
            }
        };
        self.open = Some(Open {
            file: file.into(),
            path: path.clone(),
            place,
            mode,
            mtime,
            linked,
            size,
            came: 0,
            hole_at_end: false,
        });
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        if !self.in_file {
            return Err(ReceiveError::OutOfPlace);
        }
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        open.hole_at_end = false;
        open.came = open.came.saturating_add(bytes.len() as u64);
        match open.file.write_all(bytes) {
            Ok(()) => {
                self.done.bytes += bytes.len() as u64;
                Ok(())
            }
            Err(error) => self.give_up(error),
        }
    }

    fn hole(&mut self, bytes: u64) -> Result<(), ReceiveError> {
        if !self.in_file {
            return Err(ReceiveError::OutOfPlace);
        }
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let distance = i64::try_from(bytes).unwrap_or(i64::MAX);
        open.hole_at_end = true;
        open.came = open.came.saturating_add(bytes);
        match open.file.seek(io::SeekFrom::Current(distance)) {
            Ok(_) => Ok(()),
            Err(error) => self.give_up(error),
        }
    }

    /// The file that is written cannot be; what there is of it goes away.
    fn give_up(&mut self, error: io::Error) -> Result<(), ReceiveError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.discard(&open);
        self.note(&open.path, Err(errno(error)))
    }

    fn discard(&mut self, open: &Open) {
        let Ok((folder, name)) = self.place(&open.path) else {
            return;
        };
        match &open.place {
            Place::Nowhere => {}
            Place::Beside(temporary) => {
                let _ = rustix::fs::unlinkat(folder, temporary, AtFlags::empty());
            }
            // Somebody else may have put another one in its place meanwhile.
            Place::Own => {
                let there = beneath::stat(folder.as_fd(), name);
                let ours = rustix::fs::fstat(&open.file);
                if let (Ok(there), Ok(ours)) = (there, ours)
                    && (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
                {
                    let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
                }
            }
        }
    }

    /// Finishes the file that is written, when one is.
    fn close(&mut self) -> Result<(), ReceiveError> {
        self.in_file = false;
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        // Half a file takes nobody's name: its sender could read no more of it.
        if open.size != 0 && open.came < open.size {
            self.discard(&open);
            self.done.files = self.done.files.saturating_sub(1);
            self.done.problem(open.path.as_bytes(), CUT_SHORT);
            return Ok(());
        }
        let closed = self.close_file(&mut open);
        if closed.is_err() {
            self.discard(&open);
        }
        self.note(&open.path, closed)
    }

    fn close_file(&mut self, open: &mut Open) -> rustix::io::Result<()> {
        let file = &mut open.file;
        if open.hole_at_end {
            let end = file.stream_position().map_err(errno)?;
            rustix::fs::ftruncate(&*file, end)?;
        }
        if open.mode & 0o777 | 0o200 != open.mode || open.mode & self.umask != 0 {
            rustix::fs::fchmod(&*file, Mode::from_raw_mode(open.mode.into()))?;
        }
        rustix::fs::futimens(&*file, &times(open.mtime))?;
        if open.linked {
            let stat = rustix::fs::fstat(&*file)?;
            self.linked
                .insert(open.path.clone(), (stat.st_dev, stat.st_ino));
        }
        self.put_in_place(open)
    }

    /// Gives a whole file its name. What has none needs one of its own first: only a rename replaces another file.
    fn put_in_place(&mut self, open: &Open) -> rustix::io::Result<()> {
        let named = match &open.place {
            Place::Own => return Ok(()),
            Place::Beside(temporary) => temporary.clone(),
            Place::Nowhere => temporary(),
        };
        let (folder, name) = self.place(&open.path)?;
        if open.place == Place::Nowhere {
            let (from, follow) = (path_of(&open.file), AtFlags::SYMLINK_FOLLOW);
            rustix::fs::linkat(rustix::fs::CWD, &from, folder, &named, follow)?;
        }
        let renamed = rustix::fs::renameat(folder, &named, folder, name);
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(folder, &named, AtFlags::empty());
        }
        renamed
    }

    fn make_folder(
        &mut self,
        path: &RelPath,
        mode: u16,
        mtime: FileTime,
    ) -> rustix::io::Result<()> {
        let exact = self.policy.exact;
        let (folder, name) = self.place(path)?;
        // Writable for us until all is in it.
        let at_first = Mode::from_raw_mode(0o700);
        match rustix::fs::mkdirat(folder, name, at_first) {
            Err(Errno::EXIST) => match beneath::kind(&beneath::stat(folder.as_fd(), name)?) {
                FileType::Directory => return Ok(()),
                _ if exact => {
                    rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
                    rustix::fs::mkdirat(folder, name, at_first)?;
                }
                _ => return Err(Errno::NOTDIR),
            },
            other => other?,
        }
        self.folders.push((path.clone(), mode, mtime));
        Ok(())
    }

    fn symlink(
        &mut self,
        path: &RelPath,
        target: &[u8],
        mtime: FileTime,
    ) -> rustix::io::Result<()> {
        let exact = self.policy.exact;
        let (folder, name) = self.place(path)?;
        let target = name_of(target);
        if rustix::fs::symlinkat(target, folder, name) == Err(Errno::EXIST) {
            clear(folder, name, exact, true)?;
            rustix::fs::symlinkat(target, folder, name)?;
        }
        rustix::fs::utimensat(folder, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Another name for a file that came in this transfer, and for no other file.
    fn hard_link(&mut self, path: &RelPath, first: &RelPath) -> rustix::io::Result<()> {
        let exact = self.policy.exact;
        let known = self.linked.get(first).copied().ok_or(Errno::NOENT)?;
        let from = beneath::open_folder(self.base.as_fd(), first.split().0)?;
        let first = name_of(first.split().1);
        let stat = beneath::stat(from.as_fd(), first)?;
        if (stat.st_dev, stat.st_ino) != known {
            return Err(Errno::NOENT);
        }
        let (folder, name) = self.place(path)?;
        match rustix::fs::linkat(&from, first, folder, name, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                clear(folder, name, exact, true)?;
                rustix::fs::linkat(&from, first, folder, name, AtFlags::empty())
            }
            other => other,
        }
    }

    fn remove(&mut self, path: &RelPath) -> rustix::io::Result<()> {
        // Folders that become empty go, too: the one that is remembered may be among them.
        self.folder = None;
        let mut folder = match beneath::open_folder(self.base.as_fd(), path.split().0) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(error),
        };
        beneath::remove_tree(folder.as_fd(), name_of(path.split().1)).map_err(errno)?;
        let parents: Vec<&[u8]> = path.parents().collect();
        for parent in parents.into_iter().rev() {
            let parent = RelPath::new(parent).map_err(|_| Errno::INVAL)?;
            folder = beneath::open_folder(self.base.as_fd(), parent.split().0)?;
            if rustix::fs::unlinkat(&folder, name_of(parent.split().1), AtFlags::REMOVEDIR).is_err()
            {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Receiver {
    /// What is not whole goes away.
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.discard(&open);
        }
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Makes sure that a file may take an entry's name, and frees it when asked to: only files and links
/// are replaced, unless all that is in the way shall go.
fn clear(folder: &OwnedFd, name: &Path, exact: bool, now: bool) -> rustix::io::Result<()> {
    let kind = beneath::kind(&beneath::stat(folder.as_fd(), name)?);
    match kind {
        FileType::RegularFile | FileType::Symlink => {}
        FileType::Directory if exact => {
            return beneath::remove_tree(folder.as_fd(), name).map_err(errno);
        }
        _ if exact => {}
        FileType::Directory => return Err(Errno::ISDIR),
        _ => return Err(Errno::INVAL),
    }
    if now {
        rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
    }
    Ok(())
}
