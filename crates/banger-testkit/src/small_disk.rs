//! A small file system of its own, to be full on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop-mounted ext4; unmounted with the value.
#[derive(Debug)]
pub struct SmallDisk {
    mounted: PathBuf,
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// A file system of that many MiB.
    ///
    /// # Errors
    /// Why there cannot be one here: no root, no loop devices. Whoever cannot run says so.
    pub fn new(mib: u64) -> Result<Self, String> {
        let said = |error: io::Error| error.to_string();
        let folder = tempfile::Builder::new()
            .prefix("banger-small-disk-")
            .tempdir()
            .map_err(said)?;
        let image = folder.path().join("image");
        let mounted = folder.path().join("disk");
        fs::create_dir(&mounted).map_err(said)?;
        let file = File::create(&image).map_err(said)?;
        file.set_len(mib << 20).map_err(said)?;
        run(Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&mounted))?;
        let disk = Self { mounted, folder };
        fs::remove_dir(disk.path().join("lost+found")).map_err(said)?;
        Ok(disk)
    }

    /// Where it is mounted. Empty at first.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// Whether it can be written, from here on.
    ///
    /// # Errors
    /// Somebody has a file on it open for writing.
    pub fn set_read_only(&self, is: bool) -> Result<(), String> {
        let option = if is { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", option]).arg(self.path()))
    }

    /// Fills it up with a file, and gives that.
    ///
    /// # Panics
    /// When it fails for another reason than that the disk is full.
    #[must_use]
    pub fn fill(&self) -> PathBuf {
        let path = self.mounted.join("filler");
        let mut file = File::create(&path).expect("a file on the small disk");
        let mut block = vec![0x5a; 1 << 20];
        while !block.is_empty() {
            match file.write_all(&block).and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    block.truncate(block.len() / 2);
                }
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what a failed test left there must not keep the loop device.
        let _ = run(Command::new("umount").arg("--lazy").arg(self.path()));
        let _ = self.folder.path();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", stderr.trim()))
}
