//! A VM's own root disk, in each of the ways a host can have one. Making one never replaces another.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use banger_core::{
    ByteSize, COW_HEADER, COW_VALID_AT, CowStoreState, RootStorage, cow_store_size, cow_store_state,
};
use rustix::fs::ioctl_ficlone;

use crate::disk::{DiskError, build};
use crate::{qcow2, sparse};

/// Makes the root disk at `to`, over (or from) the root file system `base`. The file below a qcow2
/// overlay is called `base` in the folder where the VMM will find both. One that exists is left alone.
///
/// # Errors
/// See [`DiskError`].
pub fn make_root_disk(storage: RootStorage, base: &Path, to: &Path) -> Result<(), DiskError> {
    build(to, |next| {
        let from = File::open(base)?;
        let size = ByteSize(from.metadata()?.len());
        let file = create(next)?;
        match storage {
            RootStorage::Qcow2 => file.write_all_at(&qcow2::overlay(size.0, "base"), 0),
            RootStorage::DmSnapshot => file.set_len(cow_store_size(size).0),
            RootStorage::Reflink => Ok(ioctl_ficlone(&file, &from)?),
            RootStorage::Copy => sparse::copy(&from, &file),
        }
    })
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    options.mode(0o600).open(path)
}

/// Makes a store good again that the kernel has given up because a write to it failed: the host's
/// disk was full. True when it was so.
///
/// Nothing that the guest has flushed is lost by that: the writes that failed were reported to the
/// guest, everything before them is in the store, and the kernel reads no further than its last
/// complete record. The guest's file system sees what it sees after a power cut. No device may be
/// over the store.
///
/// # Errors
/// The file cannot be read or written, or is no store.
pub fn mend_store(store: &Path) -> Result<bool, DiskError> {
    let failed = |source| DiskError::Io {
        path: store.to_owned(),
        source,
    };
    let file = OpenOptions::new().read(true).write(true).open(store);
    let file = file.map_err(failed)?;
    let mut header = [0; COW_HEADER];
    file.read_exact_at(&mut header, 0).map_err(failed)?;
    match cow_store_state(&header) {
        CowStoreState::Fresh | CowStoreState::Valid { .. } => Ok(false),
        CowStoreState::GivenUp => {
            let valid = 1_u32.to_le_bytes();
            let written = file.write_all_at(&valid, COW_VALID_AT);
            written.and_then(|()| file.sync_all()).map_err(failed)?;
            Ok(true)
        }
        CowStoreState::Foreign => {
            let why = "it does not begin as device-mapper's stores of changes do";
            Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)))
        }
    }
}

/// Whether the file system of this folder can share blocks between files: tried with two small ones.
#[must_use]
pub fn shares_blocks(folder: &Path) -> bool {
    let tried = (|| {
        let [from, to] = [
            tempfile::tempfile_in(folder)?,
            tempfile::tempfile_in(folder)?,
        ];
        from.write_all_at(&[1; 4096], 0)?;
        ioctl_ficlone(&to, &from).map_err(io::Error::from)
    })();
    tried.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;
    use std::process::Command;

    fn base(folder: &Path) -> PathBuf {
        let path = folder.join("base.ext4");
        let file = File::create(&path).unwrap();
        file.set_len(32 << 20).unwrap();
        file.write_all_at(b"in the middle", 16 << 20).unwrap();
        path
    }

    fn same(one: &Path, other: &Path) -> bool {
        fs::read(one).unwrap() == fs::read(other).unwrap()
    }

    #[test]
    fn a_store_is_sparse_private_and_large_enough() {
        let dir = tempfile::tempdir().unwrap();
        let (base, to) = (base(dir.path()), dir.path().join("root.cow"));
        make_root_disk(RootStorage::DmSnapshot, &base, &to).unwrap();
        let made = fs::metadata(&to).unwrap();
        assert_eq!(made.len(), cow_store_size(ByteSize(32 << 20)).0);
        assert_eq!((made.blocks(), made.mode() & 0o777), (0, 0o600));
        assert!(!mend_store(&to).unwrap());
        fs::write(&to, b"mine").unwrap();
        make_root_disk(RootStorage::DmSnapshot, &base, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"mine", "it was replaced");
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_keeps_the_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (base, to) = (base(dir.path()), dir.path().join("root.ext4"));
        make_root_disk(RootStorage::Copy, &base, &to).unwrap();
        assert!(same(&base, &to));
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn a_store_that_was_given_up_is_good_again_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("root.cow");
        let given_up = b"SnAp\0\0\0\0\x01\0\0\0\x20\0\0\0and more";
        fs::write(&store, given_up).unwrap();
        assert!(mend_store(&store).unwrap());
        let mut mended = *given_up;
        mended[4] = 1;
        assert_eq!(fs::read(&store).unwrap(), mended);
        assert!(!mend_store(&store).unwrap());
        for foreign in [&b"QFI\xfb and something else"[..], b"short"] {
            fs::write(&store, foreign).unwrap();
            assert!(mend_store(&store).is_err());
            assert_eq!(fs::read(&store).unwrap(), foreign);
        }
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        for storage in RootStorage::ALL {
            let to = dir.path().join(storage.file_name());
            assert!(make_root_disk(storage, &missing, &to).is_err());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// XFS in a file, mounted in a name space of the test's own.
    #[test]
    fn reflinks_are_made_where_the_file_system_has_them() {
        let dir = tempfile::tempdir().unwrap();
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED(reflink): mounting XFS needs root");
            return;
        }
        if Command::new("mkfs.xfs").arg("-V").output().is_err() {
            println!("SKIPPED(reflink): mkfs.xfs is not installed (package xfsprogs)");
            return;
        }
        let image = dir.path().join("xfs");
        File::create(&image).unwrap().set_len(512 << 20).unwrap();
        let made = Command::new("mkfs.xfs")
            .args(["-q", "-m", "reflink=1"])
            .arg(&image)
            .output();
        assert!(made.unwrap().status.success());
        let at = dir.path().join("mounted");
        fs::create_dir(&at).unwrap();
        let mount = Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &at])
            .output();
        let mount = mount.unwrap();
        if !mount.status.success() {
            let why = String::from_utf8_lossy(&mount.stderr);
            println!("SKIPPED(reflink): XFS cannot be mounted: {why}");
            return;
        }
        let checked = std::panic::catch_unwind(|| {
            assert!(shares_blocks(&at));
            assert!(!shares_blocks(&at.join("nowhere")));
            let base = base(&at);
            File::options()
                .write(true)
                .open(&base)
                .unwrap()
                .write_all_at(&vec![7; 8 << 20], 0)
                .unwrap();
            let free = || rustix::fs::statvfs(&at).unwrap().f_bfree;
            rustix::fs::syncfs(File::open(&at).unwrap()).unwrap();
            let before = free();
            let to = at.join("root.ext4");
            make_root_disk(RootStorage::Reflink, &base, &to).unwrap();
            rustix::fs::syncfs(File::open(&at).unwrap()).unwrap();
            assert!(same(&base, &to));
            assert!(before - free() < 256, "its blocks are the image's");
            File::options()
                .write(true)
                .open(&to)
                .unwrap()
                .write_all_at(b"guest", 0)
                .unwrap();
            assert_eq!(
                fs::read(&base).unwrap()[..5],
                [7; 5],
                "the image was written"
            );
            let outside = dir.path().join("root.ext4");
            assert!(make_root_disk(RootStorage::Reflink, &base, &outside).is_err());
            assert!(!outside.exists());
            assert_eq!(fs::read_dir(&at).unwrap().count(), 2, "trials are left");
        });
        let unmounted = Command::new("umount").arg(&at).output().unwrap();
        assert!(unmounted.status.success());
        checked.unwrap();
    }
}
