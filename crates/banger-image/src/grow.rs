//! Growing the work disk of a VM that does not run, file system included.
//!
//! The programs get the disk's open file as their standard input, with its lock (flock(2)) on it: a
//! daemon that dies leaves them running, and the lock with them, so that nobody uses the disk before
//! they are done. A mark beside the disk says that growing began; who finds one goes on with it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banger_core::ByteSize;
use rustix::fs::{FlockOperation, flock};

use crate::disk::{DiskError, succeeded};

/// Grows the work disk and the file system on it to `size`. One that is that large is left alone; an
/// absent one is made with its size later.
///
/// # Errors
/// See [`DiskError`]. A file system with errors is not touched.
pub fn grow_work_disk(disk: &Path, size: ByteSize) -> Result<(), DiskError> {
    let in_disk = |source| DiskError::Io {
        path: disk.to_owned(),
        source,
    };
    let file = match File::options().read(true).write(true).open(disk) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(in_disk)?,
    };
    flock(&file, FlockOperation::LockExclusive).map_err(|error| in_disk(error.into()))?;
    let length = file.metadata().map_err(in_disk)?.len();
    let mark = mark_of(disk);
    let interrupted = mark.exists();
    if length >= size.0 && !interrupted {
        return Ok(());
    }
    File::create(&mark)
        .and_then(|mark| mark.sync_all())
        .map_err(in_disk)?;
    let grown = check(&file, disk, interrupted).and_then(|()| {
        if length < size.0 {
            file.set_len(size.0).map_err(in_disk)?;
        }
        let mut resize = Command::new("resize2fs");
        succeeded(resize.arg(disk).stdin(held(&file, disk)?), &[0])?;
        file.sync_all().map_err(in_disk)
    });
    // What a dead daemon or a failed resize2fs left in the middle must be put right before the guest
    // mounts it; only a failure before the disk grew leaves nothing to go on with.
    let longer = file.metadata().map_err(in_disk)?.len() != length;
    if grown.is_ok() || !(interrupted || longer) {
        fs::remove_file(&mark).map_err(in_disk)?;
    }
    grown
}

fn mark_of(disk: &Path) -> PathBuf {
    disk.with_extension("growing")
}

/// The disk's open file for a child, which keeps its lock as long as it lives.
fn held(file: &File, disk: &Path) -> Result<Stdio, DiskError> {
    file.try_clone()
        .map(Stdio::from)
        .map_err(|source| DiskError::Io {
            path: disk.to_owned(),
            source,
        })
}

/// Replays the journal and checks the file system (e2fsck(8): 1 is `errors corrected`). Only an
/// interrupted growth is repaired without limits: it is banger's own.
fn check(file: &File, disk: &Path, repair: bool) -> Result<(), DiskError> {
    let mut check = Command::new("e2fsck");
    check.args(["-f", if repair { "-y" } else { "-p" }]);
    succeeded(check.arg(disk).stdin(held(file, disk)?), &[0, 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::make_work_disk;

    fn fs_size(disk: &Path) -> u64 {
        let out = Command::new("/sbin/dumpe2fs").arg("-h").arg(disk).output();
        let out = String::from_utf8(out.unwrap().stdout).unwrap();
        let field = |key: &str| -> u64 {
            let line = out.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim().parse().unwrap()
        };
        field("Block count:") * field("Block size:")
    }

    fn is_clean(disk: &Path) -> bool {
        let checked = Command::new("/sbin/e2fsck").arg("-fn").arg(disk).output();
        checked.unwrap().status.success()
    }

    fn made(size: u64) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("work.ext4");
        make_work_disk(None, &disk, ByteSize(size)).unwrap();
        (dir, disk)
    }

    #[test]
    fn the_file_system_grows_with_its_disk_and_never_shrinks() {
        let (dir, disk) = made(64 << 20);
        grow_work_disk(&disk, ByteSize(200 << 20)).unwrap();
        assert_eq!(fs_size(&disk), 200 << 20);
        assert!(is_clean(&disk));
        grow_work_disk(&disk, ByteSize(64 << 20)).unwrap();
        assert_eq!(fs::metadata(&disk).unwrap().len(), 200 << 20);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no mark");
        grow_work_disk(&dir.path().join("absent"), ByteSize(1 << 30)).unwrap();
    }

    #[test]
    fn a_growth_that_never_began_is_done_when_the_disk_is_used() {
        let (_dir, disk) = made(64 << 20);
        make_work_disk(None, &disk, ByteSize(128 << 20)).unwrap();
        assert_eq!(fs_size(&disk), 128 << 20);
        assert!(is_clean(&disk));
        make_work_disk(None, &disk, ByteSize(64 << 20)).unwrap();
        assert_eq!(fs_size(&disk), 128 << 20);
    }

    #[test]
    fn what_a_dead_daemon_left_is_finished_before_the_disk_is_used() {
        let (_dir, disk) = made(64 << 20);
        // As far as that: marked, longer, the file system as it was, and flagged.
        fs::write(mark_of(&disk), "").unwrap();
        File::options()
            .write(true)
            .open(&disk)
            .unwrap()
            .set_len(128 << 20)
            .unwrap();
        let flagged = Command::new("/sbin/debugfs")
            .args(["-w", "-R", "ssv state 2"])
            .arg(&disk)
            .output();
        assert!(flagged.unwrap().status.success());
        make_work_disk(None, &disk, ByteSize(128 << 20)).unwrap();
        assert_eq!(fs_size(&disk), 128 << 20);
        assert!(is_clean(&disk) && !mark_of(&disk).exists());
    }

    #[test]
    fn what_is_no_file_system_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("work.ext4");
        fs::write(&disk, vec![7; 1 << 20]).unwrap();
        let error = grow_work_disk(&disk, ByteSize(64 << 20)).unwrap_err();
        assert!(error.to_string().contains("e2fsck"), "{error}");
        assert_eq!(fs::read(&disk).unwrap(), vec![7; 1 << 20]);
        assert!(!mark_of(&disk).exists());
    }

    #[test]
    fn whoever_still_works_on_the_disk_is_waited_for() {
        let (_dir, disk) = made(64 << 20);
        let file = File::open(&disk).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::from(file))
            .spawn()
            .unwrap();
        let grown = std::thread::spawn({
            let disk = disk.clone();
            move || grow_work_disk(&disk, ByteSize(128 << 20))
        });
        assert_eq!(fs::metadata(&disk).unwrap().len(), 64 << 20);
        drop(child.stdin.take());
        child.wait().unwrap();
        grown.join().unwrap().unwrap();
        assert_eq!(fs_size(&disk), 128 << 20);
    }
}
