//! Root's own folder: socket, ledger, lock and log. Refused when anybody else could have made it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use banger_rootops::CLAIMS_DIR;
use rustix::fs::{FlockOperation, flock};

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirError {
    /// Making or reading it failed.
    #[error("failed to make {}", path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A link, or not root's.
    #[error("{} is not a directory that only root can write to", .0.display())]
    Untrusted(PathBuf),
}

/// Makes the folder, its parent, and the place of claims; or checks that they are root's and no links.
pub(crate) fn ensure(path: &Path) -> Result<(), DirError> {
    let uids = Path::new(CLAIMS_DIR);
    let shared = uids.parent().unwrap_or(Path::new("/"));
    let parent = path.parent().unwrap_or(Path::new("/"));
    let wanted = [
        (shared, 0o711),
        (uids, 0o700),
        (parent, 0o711),
        (path, 0o711),
    ];
    for (dir, mode) in wanted {
        let failed = |source| DirError::Make {
            path: dir.into(),
            source,
        };
        let made = match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            result => result.map(|()| true).map_err(failed)?,
        };
        let metadata = fs::symlink_metadata(dir).map_err(failed)?;
        if !metadata.is_dir() || metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return Err(DirError::Untrusted(dir.into()));
        }
        if made {
            fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(failed)?;
        }
    }
    Ok(())
}

/// Takes the folder's lock, or says that another helper has it.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(path.join("lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_open_folders_are_refused_and_one_helper_has_the_lock() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED(root): the folder must be root's");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let good = temp.path().join("good");
        ensure(&good).unwrap();
        assert_eq!(fs::metadata(&good).unwrap().mode() & 0o777, 0o711);
        let held = lock(&good).unwrap();
        assert!(held.is_some());
        assert!(lock(&good).unwrap().is_none());
        drop(held);
        assert!(lock(&good).unwrap().is_some());
        symlink(&good, temp.path().join("link")).unwrap();
        assert!(ensure(&temp.path().join("link")).is_err());
        fs::set_permissions(&good, Permissions::from_mode(0o777)).unwrap();
        assert!(ensure(&good).is_err());
    }
}
