//! Work disks that are made of a client's file system before their VMs are stored.

use std::fs;
use std::io;
use std::path::Path;

use banger_core::{ByteSize, ErrorCode, VmId};
use banger_engine::ports::Failure;
use banger_image::{DiskError, make_work_disk};

use super::drives::{disk_failure, in_folder};

fn refused(what: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidArgument, what)
}

/// Makes the work disk at `to`. Nothing of it is left when that fails.
pub(super) fn make(seed: &Path, to: &Path, size: ByteSize) -> Result<(), Failure> {
    let shown = seed.display();
    if !seed.is_absolute() {
        return Err(refused(format!(
            "the work seed {shown} is no absolute path"
        )));
    }
    let found = fs::metadata(seed).map_err(|error| {
        let what = format!("the work seed {shown} cannot be read");
        Failure::because(ErrorCode::FileNotFound, what, &error)
    })?;
    if !found.is_file() {
        return Err(refused(format!("the work seed {shown} is no file")));
    }
    if found.len() > size.0 {
        let needed = ByteSize(found.len());
        let what =
            format!("what the work disk is to begin with takes {needed}, more than its {size}");
        let least = found.len().div_ceil(1 << 30);
        return Err(refused(what).hint(format!("make it larger: `--disk-size {least}g` or more")));
    }
    make_work_disk(Some(seed), to, size).map_err(|error| match &error {
        DiskError::Command { .. } if !error.is_disk_full() => {
            let what =
                format!("the work seed {shown} cannot be used: it holds no whole ext4 file system");
            Failure::because(ErrorCode::InvalidArgument, what, &error)
        }
        _ => disk_failure(&error),
    })
}

/// Removes it, whole or not. Absent is Ok.
pub(super) fn remove(disk: &Path) -> Result<(), Failure> {
    for path in [disk.to_owned(), disk.with_extension("partial")] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(in_folder(&path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The VMs that one is there for, whole or not.
pub(super) fn list(folder: &Path) -> Result<Vec<VmId>, Failure> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(in_folder(folder, &error)),
    };
    let id = |entry: fs::DirEntry| entry.path().file_stem()?.to_str()?.parse().ok();
    Ok(entries.flatten().filter_map(id).collect())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn seed(at: &Path) {
        let made = Command::new("/usr/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-F"])
            .arg(at)
            .arg("16M")
            .output();
        assert!(made.unwrap().status.success());
    }

    #[test]
    fn what_is_no_seed_is_refused_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("0123456789ab.ext4");
        let size = ByteSize(64 << 20);
        let file = |name: &str, bytes: &[u8]| {
            fs::write(dir.path().join(name), bytes).unwrap();
            dir.path().join(name)
        };
        let cases = [
            ("relative".into(), ErrorCode::InvalidArgument),
            (dir.path().join("nowhere"), ErrorCode::FileNotFound),
            (dir.path().to_owned(), ErrorCode::InvalidArgument),
            (file("empty", b""), ErrorCode::InvalidArgument),
            (file("zeros", &[0; 1 << 20]), ErrorCode::InvalidArgument),
        ];
        for (seed, code) in cases {
            let failure = make(&seed, &to, size).unwrap_err();
            assert_eq!(failure.code, code, "{failure:?}");
            assert!(list(dir.path()).unwrap().is_empty(), "{failure:?}");
        }
        let large = dir.path().join("large");
        seed(&large);
        let failure = make(&large, &to, ByteSize(8 << 20)).unwrap_err();
        assert_eq!(failure.code, ErrorCode::InvalidArgument);
        assert!(failure.hints[0].contains("--disk-size 1g"), "{failure:?}");
        assert!(list(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn it_is_grown_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("planted");
        assert!(list(&folder).unwrap().is_empty(), "not there yet");
        fs::create_dir(&folder).unwrap();
        let (from, to) = (dir.path().join("seed"), folder.join("0123456789ab.ext4"));
        seed(&from);
        make(&from, &to, ByteSize(64 << 20)).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().len(), 64 << 20);
        assert!(from.exists(), "the caller's stays the caller's");
        // One that a dead daemon did not finish, and a file of somebody else's.
        fs::write(folder.join("ba9876543210.partial"), "").unwrap();
        fs::write(folder.join("README"), "").unwrap();
        let mut listed = list(&folder).unwrap();
        listed.sort();
        let ids: Vec<&str> = listed.iter().map(VmId::as_str).collect();
        assert_eq!(ids, ["0123456789ab", "ba9876543210"]);
        for vm in listed {
            remove(&folder.join(format!("{vm}.ext4"))).unwrap();
            remove(&folder.join(format!("{vm}.ext4"))).unwrap();
        }
        assert!(list(&folder).unwrap().is_empty());
        assert!(folder.join("README").exists());
    }
}
