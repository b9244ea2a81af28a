//! States of builders' disks, each under the key of all that led to it: what an instruction has made is there when the
//! same instruction comes again. An entry holds a root disk over its base, and a work disk.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use banger_core::{ByteSize, Digest, ImageName, RootStorage};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::file_error::{Context, FileError};
use crate::sparse;
use crate::store::{ImageStore, RECORD, sync_files};

const CACHE: &str = ".builds";
const COMING: &str = ".coming-";
const LOCK: &str = ".lock";
pub(crate) const ROOT: &str = "root";
pub(crate) const WORK: &str = "work.ext4";

/// What an entry lies over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    /// The image.
    pub image: ImageName,
    /// The artefact.
    pub digest: Digest,
    /// Kind of the root disk.
    pub storage: RootStorage,
}

/// The cache. While somebody has one open, no other process clears what is coming.
#[derive(Debug)]
pub struct BuildCache {
    root: PathBuf,
    _in_use: File,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    folder: PathBuf,
    /// What it lies over.
    pub below: Below,
}

impl Cached {
    /// The root disk.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.join(ROOT)
    }

    /// The work disk.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.folder.join(WORK)
    }

    /// Puts both disks into a VM's folder, in place of those that are there. The VM does not run.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn put_into(&self, vm: &Path) -> Result<(), FileError> {
        copy_anew(&self.root(), &vm.join(self.below.storage.file_name()))?;
        copy_anew(&self.work(), &vm.join(WORK))
    }
}

fn copy_anew(from: &Path, to: &Path) -> Result<(), FileError> {
    let next = to.with_extension("next");
    let source = File::open(from).context("read", from)?;
    let _ = fs::remove_file(&next);
    let mut options = File::options();
    let target = options.read(true).write(true).create_new(true).open(&next);
    let target = target.context("write", &next)?;
    let private = Permissions::from_mode(0o600);
    let copied = target
        .set_permissions(private)
        .and_then(|()| sparse::copy(&source, &target))
        .and_then(|()| fs::rename(&next, to));
    if copied.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&next);
    }
    copied.context("copy to", to)
}

impl ImageStore {
    /// The cache of builds. What builds have left that were killed is removed, unless one goes on.
    ///
    /// # Errors
    /// Its folder cannot be made or read.
    pub fn build_cache(&self) -> Result<BuildCache, FileError> {
        let root = self.root().join(CACHE);
        fs::create_dir_all(&root).context("make", &root)?;
        let open = || {
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(false);
            options.open(root.join(LOCK))
        };
        let lock = open().context("lock", &root)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            for entry in fs::read_dir(&root).context("read", &root)? {
                let entry = entry.context("read", &root)?;
                if entry.file_name().to_string_lossy().starts_with(COMING) {
                    fs::remove_dir_all(entry.path()).context("remove", entry.path())?;
                }
            }
        }
        flock(&lock, FlockOperation::LockShared)
            .map_err(io::Error::from)
            .context("lock", &root)?;
        Ok(BuildCache {
            root,
            _in_use: lock,
        })
    }
}

impl BuildCache {
    /// A folder that is removed when it is dropped, or after this process's death.
    pub(crate) fn coming(&self) -> Result<tempfile::TempDir, FileError> {
        let folder = tempfile::Builder::new()
            .prefix(COMING)
            .tempdir_in(&self.root);
        folder.context("make a folder in", &self.root)
    }

    /// The entry of that key, when what it lies over is there. Looking makes it younger.
    #[must_use]
    pub fn get(&self, key: &str, store: &ImageStore) -> Option<Cached> {
        let folder = self.root.join(key);
        let record = fs::read(folder.join(RECORD)).ok()?;
        let below: Below = serde_json::from_slice(&record).ok()?;
        store.artefact(&below.image, &below.digest)?;
        let entry = Cached { folder, below };
        if !entry.root().exists() || !entry.work().exists() {
            return None;
        }
        let record = File::open(entry.folder.join(RECORD)).ok()?;
        // An age that cannot be noted only makes it go earlier.
        let _ = record.set_modified(SystemTime::now());
        Some(entry)
    }

    /// Keeps the disks of a builder: those of a VM's folder as they are now. Of two that make the same, the first
    /// counts.
    ///
    /// # Errors
    /// A file cannot be read or written. Nothing is kept then.
    pub fn keep(&self, key: &str, below: Below, vm: &Path) -> Result<Cached, FileError> {
        let coming = self.coming()?;
        let disk = vm.join(below.storage.file_name());
        copy_anew(&disk, &coming.path().join(ROOT))?;
        copy_anew(&vm.join(WORK), &coming.path().join(WORK))?;
        let json = serde_json::to_vec(&below).map_err(io::Error::from);
        let record = coming.path().join(RECORD);
        json.and_then(|json| fs::write(&record, json))
            .and_then(|()| sync_files(coming.path()))
            .context("write", &record)?;
        let folder = self.root.join(key);
        let entry = Cached { folder, below };
        match fs::rename(coming.path(), &entry.folder) {
            Err(_) if entry.root().exists() => {}
            moved => moved.context("move to", &entry.folder)?,
        }
        Ok(entry)
    }

    /// Removes the entry of that key.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(&self, key: &str) -> Result<(), FileError> {
        let (folder, going) = (
            self.root.join(key),
            self.root.join(format!("{COMING}{key}")),
        );
        if !folder.exists() {
            return Ok(());
        }
        // Its name goes first: a half removed entry is none.
        fs::rename(&folder, &going).context("rename", &folder)?;
        fs::remove_dir_all(&going).context("remove", &going)
    }

    /// Removes entries, those first that were not used for longest, until the rest takes no more than `most`; those of
    /// the keys in `keep` stay. Gives the bytes that became free.
    ///
    /// # Errors
    /// The folder cannot be read, or an entry not removed.
    pub fn prune(&self, most: ByteSize, keep: &[String]) -> Result<u64, FileError> {
        use std::os::unix::fs::MetadataExt;
        let mut entries = vec![];
        for entry in fs::read_dir(&self.root).context("read", &self.root)? {
            let entry = entry.context("read", &self.root)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let folder = entry.path();
            let used = fs::metadata(folder.join(RECORD)).and_then(|file| file.modified());
            let blocks = |name: &str| fs::metadata(folder.join(name)).map_or(0, |m| m.blocks());
            let size = (blocks(ROOT) + blocks(WORK)) * 512;
            entries.push((used.ok(), size, name));
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, size, _)| size).sum();
        let mut freed = 0;
        for (_, size, name) in entries {
            if total <= most.0 {
                break;
            }
            if keep.contains(&name) {
                continue;
            }
            self.forget(&name)?;
            total -= size;
            freed += size;
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests;
