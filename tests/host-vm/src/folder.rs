//! The folder of one run: keys, drive, console. Gone with the value; what a killed run left goes with the next.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A run's folder, and a short one for sockets.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    sockets: tempfile::TempDir,
}

impl Folder {
    /// A new one below `root/run`, and `root/current` pointing to it.
    pub(crate) fn create(root: &Path) -> Result<Self> {
        let runs = root.join("run");
        fs::create_dir_all(&runs).with_context(|| format!("making {}", runs.display()))?;
        sweep(&runs)?;
        let runs = runs.canonicalize()?;
        let path = runs.join(std::process::id().to_string());
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("making {}", path.display()))?;
        let current = root.join("current");
        let _ = fs::remove_file(&current);
        symlink(&path, &current).with_context(|| format!("linking {}", current.display()))?;
        let sockets = tempfile::Builder::new().prefix("host-vm-").tempdir()?;
        Ok(Self { path, sockets })
    }

    /// Where its files are; an absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where its sockets are: short enough for any socket's name.
    pub(crate) fn sockets(&self) -> &Path {
        self.sockets.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of runs whose process is gone.
fn sweep(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs)? {
        let entry = entry?;
        let name = entry.file_name();
        let alive = Path::new("/proc").join(&name).exists();
        if !alive {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(())
}
