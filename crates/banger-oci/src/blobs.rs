//! The content store: layers by digest, shared by all images. What is there is whole; what is on its way has
//! another name and a lock, so that two pulls of one layer share it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use banger_core::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Context, PullError};

const PARTIAL: &str = ".partial";

/// The store.
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: PathBuf,
}

/// Held by whoever pulls: while it lives, nothing is pruned.
#[derive(Debug)]
pub struct InUse(#[expect(dead_code, reason = "its lock counts")] File);

/// A blob on its way, locked.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) file: File,
    path: PathBuf,
    home: PathBuf,
}

impl BlobStore {
    /// Opens the store in a folder, which is made when it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps everything as long as the guard lives.
    ///
    /// # Errors
    /// The folder cannot be locked.
    pub fn in_use(&self) -> Result<InUse, PullError> {
        let lock = File::open(&self.root).context("lock", &self.root)?;
        let locked = flock(&lock, FlockOperation::LockShared).map_err(io::Error::from);
        locked.context("lock", &self.root)?;
        Ok(InUse(lock))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.to_string())
    }

    /// A blob that is there.
    pub(crate) fn get(&self, digest: &Digest, size: u64) -> Option<File> {
        let file = File::open(self.path(digest)).ok()?;
        (file.metadata().ok()?.len() == size).then_some(file)
    }

    /// Begins or goes on with a blob; `None` while somebody else does.
    pub(crate) fn begin(&self, digest: &Digest) -> Result<Option<Partial>, PullError> {
        let home = self.path(digest);
        let path = self.root.join(format!("{digest}{PARTIAL}"));
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).context("write", &path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(io::Error::from(error)).context("lock", &path),
        }
        // Whoever had it may have finished and renamed it in between.
        let is_same = rustix::fs::stat(&path)
            .is_ok_and(|now| rustix::fs::fstat(&file).is_ok_and(|then| now.st_ino == then.st_ino));
        Ok(is_same.then_some(Partial { file, path, home }))
    }

    /// Forgets a blob that turned out to be damaged.
    pub fn forget(&self, digest: &Digest) {
        let _ = fs::remove_file(self.path(digest));
    }

    /// Removes every blob that is not to be kept, and what interrupted pulls have left; nothing while somebody
    /// pulls. Returns how many bytes.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn prune(&self, keep: &HashSet<Digest>) -> io::Result<u64> {
        let lock = File::open(&self.root)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(0);
        }
        let mut freed = 0;
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let digest: Option<Digest> = name.to_str().and_then(|name| name.parse().ok());
            if digest.is_none_or(|digest| !keep.contains(&digest)) {
                freed += entry.metadata()?.len();
                fs::remove_file(entry.path())?;
            }
        }
        Ok(freed)
    }
}

impl Partial {
    /// It is whole and has been checked.
    pub(crate) fn finish(self) -> Result<File, PullError> {
        fs::rename(&self.path, &self.home).context("rename", &self.path)?;
        File::open(&self.home).context("read", &self.home)
    }

    /// It is of no use.
    pub(crate) fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn digest(of: u8) -> Digest {
        format!("{of:02x}").repeat(32).parse().unwrap()
    }

    #[test]
    fn one_writes_and_the_others_see_it_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path().join("blobs")).unwrap();
        let mut partial = store.begin(&digest(1)).unwrap().unwrap();
        assert!(store.begin(&digest(1)).unwrap().is_none());
        partial.file.write_all(b"content").unwrap();
        assert!(store.get(&digest(1), 7).is_none());
        partial.finish().unwrap();
        assert!(store.get(&digest(1), 7).is_some());
        assert!(store.get(&digest(1), 8).is_none());
    }

    #[test]
    fn pruning_spares_what_is_kept_and_whoever_pulls() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path().join("blobs")).unwrap();
        for n in [1, 2] {
            store.begin(&digest(n)).unwrap().unwrap().finish().unwrap();
        }
        drop(store.begin(&digest(3)).unwrap());
        let keep = HashSet::from([digest(1)]);
        let in_use = store.in_use().unwrap();
        store.prune(&keep).unwrap();
        assert!(store.get(&digest(2), 0).is_some());
        drop(in_use);
        store.prune(&keep).unwrap();
        let names: Vec<_> = fs::read_dir(store.root())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, [digest(1).to_string().as_str()]);
    }
}
