//! The host's disk, built once for each content of its recipe.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

/// What the disk is made of: its recipe, and what decides on the packages it carries.
const RECIPE: &[&str] = &[
    "tests/host-vm/disk/build",
    "tests/host-vm/disk/mirror",
    "tests/host-vm/disk/customize",
    "tests/host-vm/disk/packages",
    "scripts/setup",
];

/// How long before the package index runs out a disk is made anew: longer than any run.
const MARGIN: Duration = Duration::from_secs(4 * 3600);

/// A disk that was built, with what boots it.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// Holds `disk.ext4`, `vmlinuz`, `initrd`.
    pub(crate) folder: PathBuf,
}

impl Disk {
    /// The disk of this checkout's recipe, built when there is none that can still be used.
    pub(crate) fn ensure(repo: &Path, root: &Path) -> Result<Self> {
        let fingerprint = fingerprint(repo)?;
        let disks = root.join("disk");
        fs::create_dir_all(&disks).with_context(|| format!("making {}", disks.display()))?;
        let lock = fs::File::create(disks.join("lock")).context("opening the lock of the disks")?;
        flock(&lock, FlockOperation::LockExclusive).context("locking the disks")?;
        let folder = disks.join(&fingerprint);
        if is_usable(&folder) {
            return Ok(Self { folder });
        }
        clear(&disks)?;
        let status = Command::new(repo.join("tests/host-vm/disk/build"))
            .arg(&folder)
            .status()
            .context("starting tests/host-vm/disk/build")?;
        if !status.success() {
            bail!("the host's disk could not be built ({status}); what it needs: scripts/setup");
        }
        ensure!(
            is_usable(&folder),
            "the disk was built, but its package index is about to run out: {}",
            folder.display()
        );
        Ok(Self { folder })
    }
}

/// Old disks are large and of no more use.
fn clear(disks: &Path) -> Result<()> {
    for entry in fs::read_dir(disks)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

fn is_usable(folder: &Path) -> bool {
    let until = fs::read_to_string(folder.join("valid-until"));
    let until = until.ok().and_then(|text| parse_until(&text));
    let complete = folder.join("disk.ext4").is_file();
    complete && until.is_some_and(|until| SystemTime::now() + MARGIN < until)
}

/// Seconds since the epoch, as the build wrote them.
fn parse_until(text: &str) -> Option<SystemTime> {
    let seconds = text.trim().parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn fingerprint(repo: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = RECIPE.iter().map(PathBuf::from).collect();
    let images = repo.join("images");
    for entry in fs::read_dir(&images).with_context(|| format!("listing {}", images.display()))? {
        files.push(
            Path::new("images")
                .join(entry?.file_name())
                .join("recipe.toml"),
        );
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let mut content = Vec::new();
        fs::File::open(repo.join(&file))
            .and_then(|mut open| open.read_to_end(&mut content))
            .with_context(|| format!("reading {}", file.display()))?;
        digest.update(file.as_os_str().as_encoded_bytes());
        digest.update(content.len().to_le_bytes());
        digest.update(&content);
    }
    let hex: String = digest
        .finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_and_nonsense_is_none() {
        let noon = parse_until("1764072000\n");
        assert_eq!(
            noon,
            UNIX_EPOCH.checked_add(Duration::from_secs(1_764_072_000))
        );
        for bad in ["", "tomorrow", "-1", "18446744073709551616"] {
            assert_eq!(parse_until(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_folder_without_a_disk_is_not_usable() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!is_usable(folder.path()));
        fs::write(folder.path().join("valid-until"), "99999999999").expect("written");
        assert!(!is_usable(folder.path()));
        fs::write(folder.path().join("disk.ext4"), "").expect("written");
        assert!(is_usable(folder.path()));
        fs::write(folder.path().join("valid-until"), "1").expect("written");
        assert!(!is_usable(folder.path()));
    }
}
