//! Loop devices over files that the owner opened (loop(4)).
//!
//! They are bound with `autoclear`: one that nothing has open any more unbinds itself, so neither a
//! crash nor a removal leaves one behind. What keeps it is the device-mapper device above it. Ours
//! carry a mark in the place where others note a file name; without it none is used.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use linux_raw_sys::loop_device::{_bindgen_ty_1 as Flag, loop_config, loop_info64};
use rustix::fs::{Dev, FileType, Mode, OFlags, fstat, major, minor, open};
use rustix::io::Errno;

use crate::sys;

/// Others may take the free device that was just found; so often is another one tried.
const ATTEMPTS: u32 = 64;
const LOOP_MAJOR: u32 = 7;

/// Which file it is, whatever its name (`stat(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileId {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

impl FileId {
    pub(crate) fn of(file: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = fstat(file)?;
        Ok(Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
        })
    }
}

/// What it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A base image: only read, through the page cache, which all VMs on it share.
    Base,
    /// A VM's store of changes. Direct I/O where the file system has it: the guest and the device
    /// above have cached already.
    Store,
}

impl Purpose {
    /// What marks a device as ours, and for what.
    fn mark(self) -> &'static [u8] {
        match self {
            Self::Base => b"BANGER-base",
            Self::Store => b"BANGER-store",
        }
    }

    fn flags(self) -> u32 {
        Flag::LO_FLAGS_AUTOCLEAR as u32
            | match self {
                Self::Base => Flag::LO_FLAGS_READ_ONLY as u32,
                Self::Store => Flag::LO_FLAGS_DIRECT_IO as u32,
            }
    }
}

/// A bound loop device, held open.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    node: OwnedFd,
}

/// Why there is no loop device.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoopError {
    #[error("failed to open {path}")]
    Open {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("{0} is not a loop device")]
    NotLoop(String),
    #[error("failed to find a free loop device")]
    Find(#[source] Errno),
    #[error("failed to bind {path} to the file (Linux 5.8 or later is needed)")]
    Bind {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("failed to look at the file")]
    File(#[source] Errno),
    #[error("{0} was bound to another file than it was given")]
    Exchanged(String),
    #[error("other programs took each of {ATTEMPTS} free loop devices first")]
    Crowded,
}

impl LoopDevice {
    /// Binds a free device to the whole of `file`.
    pub(crate) fn attach(file: BorrowedFd<'_>, purpose: Purpose) -> Result<Self, LoopError> {
        let path = "/dev/loop-control";
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let control = open(path, flags, Mode::empty()).map_err(|source| LoopError::Open {
            path: path.to_owned(),
            source,
        })?;
        let id = FileId::of(file).map_err(LoopError::File)?;
        for _ in 0..ATTEMPTS {
            let number = sys::free_loop(&control).map_err(LoopError::Find)?;
            if let Some(device) = Self::bind(number, file, purpose)? {
                return match device.is_ours(id, purpose) {
                    true => Ok(device),
                    false => Err(LoopError::Exchanged(format!("/dev/loop{number}"))),
                };
            }
        }
        Err(LoopError::Crowded)
    }

    /// None when somebody else was quicker.
    fn bind(
        number: u32,
        file: BorrowedFd<'_>,
        purpose: Purpose,
    ) -> Result<Option<Self>, LoopError> {
        let path = format!("/dev/loop{number}");
        let device = match Self::open(&path, purpose) {
            Err(LoopError::Open {
                source: Errno::NXIO | Errno::NODEV,
                ..
            }) => return Ok(None),
            other => other?,
        };
        match sys::configure_loop(&device.node, config(file, purpose)) {
            Ok(()) => Ok(Some(device)),
            Err(Errno::BUSY) => Ok(None),
            Err(source) => Err(LoopError::Bind { path, source }),
        }
    }

    fn open(path: &str, purpose: Purpose) -> Result<Self, LoopError> {
        let access = match purpose {
            Purpose::Base => OFlags::RDONLY,
            Purpose::Store => OFlags::RDWR,
        };
        let node = open(path, access | OFlags::CLOEXEC, Mode::empty());
        let node = node.map_err(|source| LoopError::Open {
            path: path.to_owned(),
            source,
        })?;
        let stat = fstat(&node).map_err(LoopError::File)?;
        let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        match is_block && major(stat.st_rdev) == LOOP_MAJOR {
            true => Ok(Self { node }),
            false => Err(LoopError::NotLoop(path.to_owned())),
        }
    }

    /// Opens the base's device that another VM uses already; None unless it is what we made.
    pub(crate) fn shared(device: Dev, base: FileId) -> Option<Self> {
        let found = Self::numbered(device, Purpose::Base)?;
        found.is_ours(base, Purpose::Base).then_some(found)
    }

    /// The file that a base's device is bound to; None unless it is what we made.
    pub(crate) fn base_file(device: Dev) -> Option<FileId> {
        let found = Self::numbered(device, Purpose::Base)?;
        let info = sys::loop_status(&found.node).ok()?;
        let (dev, ino) = (info.lo_device, info.lo_inode);
        let file = FileId { dev, ino };
        fits(&info, file, Purpose::Base).then_some(file)
    }

    /// Opens the device of that number.
    fn numbered(device: Dev, purpose: Purpose) -> Option<Self> {
        let entry = format!("/sys/dev/block/{}:{}", major(device), minor(device));
        let target = std::fs::read_link(entry).ok()?;
        let name = Path::new(&target).file_name()?.to_str()?.to_owned();
        let found = Self::open(&format!("/dev/{name}"), purpose).ok()?;
        (found.device().ok() == Some(device)).then_some(found)
    }

    /// Its number.
    pub(crate) fn device(&self) -> Result<Dev, LoopError> {
        Ok(fstat(&self.node).map_err(LoopError::File)?.st_rdev)
    }

    fn is_ours(&self, file: FileId, purpose: Purpose) -> bool {
        sys::loop_status(&self.node).is_ok_and(|info| fits(&info, file, purpose))
    }
}

/// Whether a device is bound as [`config`] binds it, to that file.
fn fits(info: &loop_info64, file: FileId, purpose: Purpose) -> bool {
    let required = purpose.flags() & !(Flag::LO_FLAGS_DIRECT_IO as u32);
    let mark = padded(purpose.mark());
    (info.lo_device, info.lo_inode) == (file.dev, file.ino)
        && (info.lo_offset, info.lo_sizelimit) == (0, 0)
        && info.lo_flags & required == required
        && info.lo_file_name == mark
}

fn config(file: BorrowedFd<'_>, purpose: Purpose) -> loop_config {
    loop_config {
        fd: file.as_fd().as_raw_fd().unsigned_abs(),
        block_size: 0,
        info: loop_info64 {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: 0,
            lo_sizelimit: 0,
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: purpose.flags(),
            lo_file_name: padded(purpose.mark()),
            lo_crypt_name: [0; 64],
            lo_encrypt_key: [0; 32],
            lo_init: [0; 2],
        },
        __reserved: [0; 8],
    }
}

fn padded(text: &[u8]) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..text.len()].copy_from_slice(text);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::FileExt as _;

    fn skipped() -> bool {
        let works = open("/dev/loop-control", OFlags::RDWR, Mode::empty()).is_ok();
        if !works {
            println!("SKIPPED(loop): /dev/loop-control cannot be opened");
        }
        !works
    }

    fn until(what: &str, done: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !done() {
            assert!(
                std::time::Instant::now() < deadline,
                "never came true: {what}"
            );
            std::thread::yield_now();
        }
    }

    fn read_write() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file
    }

    fn bound(device: Dev) -> bool {
        let entry = format!("/sys/dev/block/{}:{}/loop", major(device), minor(device));
        Path::new(&entry).exists()
    }

    #[test]
    fn a_store_is_written_through_and_unbinds_itself() {
        if skipped() {
            return;
        }
        let file = read_write();
        let device = LoopDevice::attach(file.as_fd(), Purpose::Store).unwrap();
        let number = device.device().unwrap();
        let mut node = File::from(device.node.try_clone().unwrap());
        node.write_all(&[7; 4096]).unwrap();
        node.sync_all().unwrap();
        let mut seen = [0; 4096];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen, [7; 4096]);
        assert!(bound(number));
        drop(node);
        assert!(bound(number));
        drop(device);
        // udev may be looking at it.
        until("it unbinds itself", || !bound(number));
    }

    #[test]
    fn a_base_is_only_read_and_found_again_by_its_file() {
        if skipped() {
            return;
        }
        let (file, other) = (read_write(), read_write());
        file.write_all_at(b"base", 0).unwrap();
        let device = LoopDevice::attach(file.as_fd(), Purpose::Base).unwrap();
        let number = device.device().unwrap();
        let id = FileId::of(file.as_fd()).unwrap();
        let shared = LoopDevice::shared(number, id).unwrap();
        drop(device);
        assert!(bound(number), "the second still has it open");
        let mut seen = [0; 4];
        File::from(shared.node.try_clone().unwrap())
            .read_exact(&mut seen)
            .unwrap();
        assert_eq!(&seen, b"base");
        let path = format!("/proc/self/fd/{}", shared.node.as_raw_fd());
        let written = File::options().write(true).open(path);
        assert!(written.and_then(|mut node| node.write_all(b"x")).is_err());
        let wrong = FileId::of(other.as_fd()).unwrap();
        assert!(LoopDevice::shared(number, wrong).is_none());
        drop(shared);
        until("it unbinds itself", || {
            LoopDevice::shared(number, id).is_none()
        });
    }

    #[test]
    fn what_others_bound_is_not_shared() {
        if skipped() {
            return;
        }
        let file = read_write();
        let store = LoopDevice::attach(file.as_fd(), Purpose::Store).unwrap();
        let id = FileId::of(file.as_fd()).unwrap();
        assert!(LoopDevice::shared(store.device().unwrap(), id).is_none());
        let mut info = sys::loop_status(&store.node).unwrap();
        assert!(fits(&info, id, Purpose::Store));
        info.lo_file_name = padded(b"/srv/images/somebody-elses");
        assert!(!fits(&info, id, Purpose::Store));
        info.lo_file_name = padded(Purpose::Store.mark());
        info.lo_offset = 512;
        assert!(!fits(&info, id, Purpose::Store));
    }

    #[test]
    fn many_at_once_each_get_their_own() {
        if skipped() {
            return;
        }
        let attach = || {
            let file = read_write();
            let device = LoopDevice::attach(file.as_fd(), Purpose::Store).unwrap();
            let number = device.device().unwrap();
            (device, number)
        };
        let devices: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(attach)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let numbers: std::collections::BTreeSet<Dev> = devices.iter().map(|(_, n)| *n).collect();
        assert_eq!(numbers.len(), 8);
    }

    #[test]
    fn a_directory_is_refused() {
        if skipped() {
            return;
        }
        let folder = File::open("/").unwrap();
        let refused = LoopDevice::attach(folder.as_fd(), Purpose::Base);
        assert!(
            matches!(refused, Err(LoopError::Bind { .. })),
            "{refused:?}"
        );
    }
}
