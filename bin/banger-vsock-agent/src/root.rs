//! Files of the guest's image, reached from outside of it: every path is resolved as if the image's
//! root were `/` (openat2(2), `RESOLVE_IN_ROOT`), so that no link of the image leads out of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// The most that is ever read of one file, in bytes.
const MAX_READ: u64 = 4 << 20;

/// A root folder.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

/// A descriptor's path under `/proc`, for calls that take no descriptor.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

impl Root {
    /// The root folder at this path.
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd })
    }

    fn at(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // Openat2 may say EAGAIN when something is renamed meanwhile.
        loop {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// The status of what the path leads to, following links.
    pub(crate) fn stat(&self, path: &str) -> Option<Stat> {
        let fd = self.at(Path::new(path), OFlags::PATH, Mode::empty()).ok()?;
        rustix::fs::fstat(fd).ok()
    }

    /// What the path leads to, as a place.
    pub(crate) fn file(&self, path: &str) -> io::Result<OwnedFd> {
        Ok(self.at(Path::new(path), OFlags::PATH, Mode::empty())?)
    }

    /// Whether there is an entry of that name, also a link that leads nowhere (from here).
    pub(crate) fn has_entry(&self, path: &str) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        self.at(Path::new(path), flags, Mode::empty()).is_ok()
    }

    /// What the symbolic link of that name says, when it is one.
    pub(crate) fn link_target(&self, path: &str) -> Option<String> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let fd = self.at(Path::new(path), flags, Mode::empty()).ok()?;
        let target = rustix::fs::readlinkat(&fd, "", vec![]).ok()?;
        target.into_string().ok()
    }

    /// Whether the path leads to a file that may be executed.
    pub(crate) fn is_program(&self, path: &str) -> bool {
        self.stat(path).is_some_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_mode & 0o111 != 0
        })
    }

    /// Where the path really leads, as a path in this root.
    pub(crate) fn real_path(&self, path: &str) -> Option<String> {
        let fd = self.at(Path::new(path), OFlags::PATH, Mode::empty()).ok()?;
        let place = |fd: BorrowedFd<'_>| std::fs::read_link(proc_path(fd)).ok();
        let (root, file) = (place(self.fd.as_fd())?, place(fd.as_fd())?);
        let inner = file.strip_prefix(root).ok()?;
        Some(format!("/{}", inner.display()))
    }

    /// A file's content; `None` when there is none, or it is no regular file or too large.
    pub(crate) fn read(&self, path: &str) -> Option<Vec<u8>> {
        use std::io::Read;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.at(Path::new(path), flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut content = vec![];
        let mut file = std::fs::File::from(fd).take(MAX_READ + 1);
        file.read_to_end(&mut content).ok()?;
        (content.len() as u64 <= MAX_READ).then_some(content)
    }

    /// A text file's content, empty when there is none.
    pub(crate) fn read_text(&self, path: &str) -> String {
        let content = self.read(path).unwrap_or_default();
        String::from_utf8_lossy(&content).into_owned()
    }

    /// The folder of that path, made with all that lead to it where they are missing.
    pub(crate) fn ensure_folder(&self, path: &str, mode: u32) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        if let Ok(fd) = self.at(Path::new(path), flags, Mode::empty()) {
            return Ok(fd);
        }
        let mut walked = PathBuf::from("/");
        let mut fd = self.at(&walked, flags, Mode::empty())?;
        for name in Path::new(path).components().skip(1) {
            walked.push(name);
            fd = match self.at(&walked, flags, Mode::empty()) {
                Err(Errno::NOENT) => {
                    let name = Path::new(name.as_os_str());
                    match rustix::fs::mkdirat(&fd, name, Mode::from_raw_mode(mode)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    self.at(&walked, flags, Mode::empty())?
                }
                other => other?,
            };
        }
        Ok(fd)
    }

    /// Makes a file of that content and mode, owned by root, in place of whatever has its name.
    /// Nothing is written when it is already so: a boot then costs no journal traffic.
    pub(crate) fn write(&self, path: &str, content: &[u8], mode: u32) -> io::Result<()> {
        let (folder, name) = split(path)?;
        let folder = self.ensure_folder(folder, 0o755)?;
        if is_already(folder.as_fd(), name, content, mode) {
            return Ok(());
        }
        let temporary = format!(".{name}.banger");
        let _ = rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let fd = rustix::fs::openat(&folder, &temporary, flags, mode)?;
        let mut file = std::fs::File::from(fd);
        io::Write::write_all(&mut file, content)?;
        rustix::fs::fchmod(&file, mode)?;
        rustix::fs::renameat(&folder, &temporary, &folder, name)?;
        Ok(())
    }

    /// Makes a symbolic link, in place of a file or link of that name.
    pub(crate) fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let (folder, name) = split(path)?;
        let folder = self.ensure_folder(folder, 0o755)?;
        match rustix::fs::symlinkat(target, &folder, name) {
            Err(Errno::EXIST) => {}
            result => return Ok(result?),
        }
        rustix::fs::unlinkat(&folder, name, AtFlags::empty())?;
        Ok(rustix::fs::symlinkat(target, &folder, name)?)
    }
}

fn split(path: &str) -> io::Result<(&str, &str)> {
    match path.rsplit_once('/') {
        Some(("", name)) => Ok(("/", name)),
        Some(pair) => Ok(pair),
        None => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn is_already(folder: BorrowedFd<'_>, name: &str, content: &[u8], mode: u32) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(folder, name, flags, Mode::empty()) else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(&fd) else {
        return false;
    };
    let expected = (FileType::RegularFile.as_raw_mode() | mode, 0, 0);
    if (stat.st_mode, stat.st_uid, stat.st_gid) != expected {
        return false;
    }
    if u64::try_from(stat.st_size).ok() != u64::try_from(content.len()).ok() {
        return false;
    }
    let mut now = vec![];
    let mut file = std::fs::File::from(fd);
    io::Read::read_to_end(&mut file, &mut now).is_ok() && now == content
}
