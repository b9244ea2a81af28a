//! Reading files into records.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use banger_guest_proto::{
    CHANGED, CUT_SHORT, Entry, EntryKind, FileTime, FilesDone, RecordWriter, RelPath,
};
use rustix::fs::{FileType, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::beneath;

/// The stream failed; what could not be read is told at the end instead.
#[derive(Debug, thiserror::Error)]
#[error("failed to send files")]
pub struct SendError(#[source] pub io::Error);

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

/// Sends files and folders. What cannot be read is noted and left out.
#[derive(Debug)]
pub struct Sender<W> {
    out: RecordWriter<W>,
    done: FilesDone,
    /// Files with several names, by device and number.
    links: HashMap<(u64, u64), RelPath>,
    content: bool,
    recursive: bool,
    /// What was sent, when that is noted.
    recorded: Option<Vec<Entry>>,
    /// Left out wherever a folder is listed at the very top.
    pub skip_at_top: Option<&'static [u8]>,
}

/// How a file was read.
enum HowRead {
    AsItWas,
    Changed,
    /// It ended before what it was announced to have.
    CutShort,
}

fn mode(stat: &Stat) -> u16 {
    u16::try_from(stat.st_mode & 0o7777).unwrap_or_default()
}

#[expect(
    clippy::useless_conversion,
    reason = "the types differ between machines"
)]
fn time(stat: &Stat) -> FileTime {
    FileTime {
        seconds: i64::try_from(stat.st_mtime).unwrap_or_default(),
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
    }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

impl<W: Write> Sender<W> {
    /// Over a stream; with or without the content of files, with or without what folders hold.
    #[must_use]
    pub fn new(out: RecordWriter<W>, content: bool, recursive: bool) -> Self {
        Self {
            out,
            done: FilesDone::default(),
            links: HashMap::new(),
            content,
            recursive,
            recorded: None,
            skip_at_top: None,
        }
    }

    /// The stream, for what else is to be said on it.
    pub fn out(&mut self) -> &mut RecordWriter<W> {
        &mut self.out
    }

    /// From here on, what is sent is noted.
    pub fn record(&mut self) {
        self.recorded = Some(vec![]);
    }

    /// What was sent whole since, as it was when it was opened; another name of a file like a file. No more is noted.
    pub fn recorded(&mut self) -> Vec<Entry> {
        self.recorded.take().unwrap_or_default()
    }

    /// Ends the records, and gives the stream back.
    ///
    /// # Errors
    /// [`SendError`] when the stream fails.
    pub fn end(mut self) -> Result<(RecordWriter<W>, FilesDone), SendError> {
        self.out.end()?;
        Ok((self.out, self.done))
    }

    /// Sends what stands at a path below the folder, under another or the same path.
    ///
    /// # Errors
    /// [`SendError`] when the stream fails.
    pub fn send(
        &mut self,
        base: BorrowedFd<'_>,
        at: &Path,
        path: &RelPath,
    ) -> Result<(), SendError> {
        let mut waiting = vec![(at.to_owned(), path.clone())];
        while let Some((at, path)) = waiting.pop() {
            if self.one(base, &at, &path, true)? && self.recursive {
                self.list(base, &at, Some(&path), &mut waiting);
            }
        }
        Ok(())
    }

    /// Sends the file or the link that stands at a path below the folder; what has become a folder is noted and left out.
    ///
    /// # Errors
    /// [`SendError`] when the stream fails.
    pub fn send_file(&mut self, base: BorrowedFd<'_>, path: &RelPath) -> Result<(), SendError> {
        self.one(base, path.as_path(), path, false).map(drop)
    }

    /// Sends all that the folder holds.
    ///
    /// # Errors
    /// [`SendError`] when the stream fails.
    pub fn send_all(&mut self, base: BorrowedFd<'_>) -> Result<(), SendError> {
        let mut top = vec![];
        self.list(base, Path::new("."), None, &mut top);
        for (at, path) in top {
            if self.skip_at_top != Some(path.as_bytes()) {
                self.send(base, &at, &path)?;
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        base: BorrowedFd<'_>,
        at: &Path,
        path: Option<&RelPath>,
        into: &mut Vec<(PathBuf, RelPath)>,
    ) {
        use std::os::unix::ffi::OsStrExt;
        let listed = beneath::open(base, at, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|folder| beneath::names(folder.as_fd()));
        let names = match listed {
            Ok(names) => names,
            Err(error) => {
                let place = path.map_or(&b"."[..], RelPath::as_bytes);
                return self.done.problem(place, io::Error::from(error).to_string());
            }
        };
        for name in names {
            let name = name.to_bytes();
            let inner = match path {
                Some(path) => path.join(name),
                None => RelPath::new(name),
            };
            match inner {
                Ok(inner) => into.push((at.join(std::ffi::OsStr::from_bytes(name)), inner)),
                Err(error) => self.done.problem(name, error.to_string()),
            }
        }
    }

    /// Sends one entry; whether it is a folder that was sent.
    fn one(
        &mut self,
        base: BorrowedFd<'_>,
        at: &Path,
        path: &RelPath,
        folders: bool,
    ) -> Result<bool, SendError> {
        let found = beneath::open(base, at, OFlags::PATH | OFlags::NOFOLLOW)
            .and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)));
        let (stat, fd) = match found {
            Ok(found) => found,
            // A link or a file where the path needs a folder: there is nothing at the path.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !self.content => {
                self.entry(path, EntryKind::Missing, None)?;
                return Ok(false);
            }
            Err(error) => {
                self.done
                    .problem(path.as_bytes(), io::Error::from(error).to_string());
                return Ok(false);
            }
        };
        match beneath::kind(&stat) {
            FileType::RegularFile => self.file(base, at, path, &stat)?,
            FileType::Directory if !folders => {
                self.done.problem(path.as_bytes(), "it has become a folder")
            }
            FileType::Directory => {
                self.entry(path, EntryKind::Folder, Some(&stat))?;
                return Ok(true);
            }
            FileType::Symlink => match rustix::fs::readlinkat(&fd, "", vec![]) {
                Ok(target) => {
                    let kind = EntryKind::Symlink(target.into_bytes());
                    self.entry(path, kind, Some(&stat))?;
                }
                Err(error) => self
                    .done
                    .problem(path.as_bytes(), io::Error::from(error).to_string()),
            },
            _ if self.content => self
                .done
                .problem(path.as_bytes(), "neither file, folder nor link"),
            _ => self.entry(path, EntryKind::Special, Some(&stat))?,
        }
        Ok(false)
    }

    fn entry(&mut self, path: &RelPath, kind: EntryKind, stat: Option<&Stat>) -> io::Result<()> {
        self.done.files += 1;
        let entry = Entry {
            path: path.clone(),
            kind,
            mode: stat.map(mode).unwrap_or_default(),
            mtime: stat.map(time).unwrap_or_default(),
        };
        self.out.entry(&entry)?;
        if let Some(recorded) = &mut self.recorded {
            let kind = match (entry.kind, stat) {
                // Whoever looks at it finds a file.
                (EntryKind::HardLink(_), Some(stat)) => EntryKind::File {
                    size: size(stat),
                    linked: true,
                },
                (kind, _) => kind,
            };
            recorded.push(Entry { kind, ..entry });
        }
        Ok(())
    }

    fn file(
        &mut self,
        base: BorrowedFd<'_>,
        at: &Path,
        path: &RelPath,
        stat: &Stat,
    ) -> Result<(), SendError> {
        let mut linked = false;
        if stat.st_nlink > 1 && self.content {
            let number = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&number) {
                let kind = EntryKind::HardLink(first.clone());
                return Ok(self.entry(path, kind, Some(stat))?);
            }
            self.links.insert(number, path.clone());
            linked = true;
        }
        if !self.content {
            let size = size(stat);
            return Ok(self.entry(path, EntryKind::File { size, linked }, Some(stat))?);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = beneath::open(base, at, flags)
            .and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)))
            .and_then(|(stat, fd)| match beneath::kind(&stat) {
                FileType::RegularFile => Ok((stat, fd)),
                _ => Err(Errno::INVAL),
            });
        let (stat, fd) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.links.remove(&(stat.st_dev, stat.st_ino));
                self.done
                    .problem(path.as_bytes(), io::Error::from(error).to_string());
                return Ok(());
            }
        };
        let size = size(&stat);
        self.entry(path, EntryKind::File { size, linked }, Some(&stat))?;
        let what = match self.content(&fd, &stat)? {
            Ok(HowRead::AsItWas) => return Ok(()),
            Ok(HowRead::Changed) => {
                self.done.problem(path.as_bytes(), CHANGED);
                return Ok(());
            }
            Ok(HowRead::CutShort) => CUT_SHORT.to_owned(),
            Err(error) => error.to_string(),
        };
        // The receiver throws away what is shorter than it was announced.
        self.done.problem(path.as_bytes(), what);
        self.links.remove(&(stat.st_dev, stat.st_ino));
        if let Some(recorded) = &mut self.recorded {
            recorded.pop();
        }
        Ok(())
    }

    /// Sends a file's content, and says whether it held still meanwhile.
    fn content(&mut self, fd: &OwnedFd, stat: &Stat) -> io::Result<io::Result<HowRead>> {
        let size = size(stat);
        // In blocks of 512 bytes, whatever the file system's are (stat(3type)).
        let stored = u64::try_from(stat.st_blocks)
            .unwrap_or_default()
            .saturating_mul(512);
        // What claims no size may have content all the same (proc(5)): that is read to its end.
        let limit = if size == 0 { u64::MAX } else { size };
        let mut at = 0;
        if stored < size {
            while at < size {
                let (data, hole) = match next_data(fd, at, size) {
                    Ok(range) => range,
                    Err(error) => return Ok(Err(error.into())),
                };
                if data > at {
                    self.out.hole(data - at)?;
                }
                match self.copy(fd, data, hole)? {
                    Ok(end) if end == hole => at = hole,
                    Ok(_) => return Ok(Ok(HowRead::CutShort)),
                    Err(error) => return Ok(Err(error)),
                }
            }
        } else {
            match self.copy(fd, 0, limit)? {
                Ok(end) if end == size || size == 0 => {}
                Ok(_) => return Ok(Ok(HowRead::CutShort)),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(match rustix::fs::fstat(fd) {
            Ok(after) if time(&after) == time(stat) && after.st_size == stat.st_size => {
                Ok(HowRead::AsItWas)
            }
            Ok(_) => Ok(HowRead::Changed),
            Err(error) => Err(error.into()),
        })
    }

    /// Sends a range; where it really ended.
    fn copy(&mut self, fd: &OwnedFd, from: u64, to: u64) -> io::Result<io::Result<u64>> {
        let mut at = from;
        while at < to {
            let most = usize::try_from(to - at).unwrap_or(usize::MAX);
            let read = |buffer: &mut [u8]| Ok(rustix::io::pread(fd, buffer, at)?);
            match self.out.data_from(most, read)? {
                Ok(0) => break,
                Ok(count) => {
                    at += count as u64;
                    self.done.bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(at))
    }
}

/// The next stretch of a sparse file that has data, at or after a place. The last one is empty when
/// the file ends with a hole.
fn next_data(fd: &OwnedFd, at: u64, size: u64) -> rustix::io::Result<(u64, u64)> {
    let data = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
        Ok(data) => data.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        Err(error) => return Err(error),
    };
    let hole = rustix::fs::seek(fd, SeekFrom::Hole(data))?;
    Ok((data, hole.min(size)))
}
