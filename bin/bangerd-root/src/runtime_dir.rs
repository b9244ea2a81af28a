//! Root's own folder: socket, ledger, lock and log. Refused when anybody else could have made it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Makes the folder and its parent, or checks that they are root's and no links.
pub(crate) fn ensure(path: &Path) -> io::Result<()> {
    for dir in path.parent().into_iter().chain([path]) {
        match DirBuilder::new().mode(0o711).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        let metadata = fs::symlink_metadata(dir)?;
        let trusted = metadata.is_dir() && metadata.uid() == 0 && metadata.mode() & 0o022 == 0;
        if !trusted {
            let message = format!(
                "{} is not a directory that only root can write",
                dir.display()
            );
            return Err(io::Error::other(message));
        }
    }
    Ok(())
}

/// Takes the folder's lock, or says that another helper has it.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let options = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .clone();
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
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn links_and_open_folders_are_refused_and_one_helper_has_the_lock() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED (root): the folder must be root's");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let good = temp.path().join("good");
        ensure(&good).unwrap();
        let held = lock(&good).unwrap();
        assert!(held.is_some());
        assert!(lock(&good).unwrap().is_none());
        drop(held);
        symlink(&good, temp.path().join("link")).unwrap();
        assert!(ensure(&temp.path().join("link")).is_err());
        fs::set_permissions(&good, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(ensure(&good).is_err());
    }
}
