//! Folders that last as long as the command which made them, also when it is killed: each is locked (flock(2)) while
//! its command lives, and a later command removes those that nobody holds.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use tempfile::TempDir;

/// What their names begin with, unless told otherwise. What has another name is somebody else's.
const PREFIX: &str = "staging-";

/// Where such folders are made.
#[derive(Debug, Clone)]
pub struct Staging {
    root: PathBuf,
    prefix: &'static str,
}

/// Such a folder. Dropped, it is gone.
#[derive(Debug)]
pub struct StagedFolder {
    folder: TempDir,
    _held: File,
}

impl StagedFolder {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Staging {
    /// In that folder, which is made when it is not there. What commands that were killed have left in it is removed,
    /// as far as it can be.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(Self::among(root, PREFIX))
    }

    /// The same in a folder of somebody else's, with names of ours.
    pub(crate) fn among(root: PathBuf, prefix: &'static str) -> Self {
        sweep(&root, prefix);
        Self { root, prefix }
    }

    /// A new folder, which only this user may enter.
    ///
    /// # Errors
    /// It cannot be made or locked.
    pub fn folder(&self) -> io::Result<StagedFolder> {
        loop {
            let folder = tempfile::Builder::new()
                .prefix(self.prefix)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(&self.root)?;
            match hold(folder.path(), FlockOperation::LockExclusive) {
                Ok(held) => {
                    return Ok(StagedFolder {
                        folder,
                        _held: held,
                    });
                }
                // A sweep has come in between: nobody held it yet.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A new file that has no name, so that nothing is ever left of it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn file(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.root)
    }
}

/// Opens and locks a folder; `NOENT` when it is gone by then.
fn hold(path: &Path, how: FlockOperation) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    flock(&folder, how)?;
    let now = rustix::fs::lstat(path)?;
    let then = rustix::fs::fstat(&folder)?;
    if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino) {
        Ok(folder)
    } else {
        Err(Errno::NOENT)
    }
}

/// Removes the folders that nobody holds. Best effort: who has been killed is in nobody's way.
fn sweep(root: &Path, prefix: &str) {
    let me = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let is_ours = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_bytes())
            && entry
                .metadata()
                .is_ok_and(|found| found.is_dir() && found.uid() == me);
        if is_ours && let Ok(_held) = hold(&entry.path(), FlockOperation::NonBlockingLockExclusive)
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_nobody_holds_goes_and_all_else_stays() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("not/there/yet");
        let staging = Staging::open(&root).unwrap();
        let held = staging.folder().unwrap();
        fs::write(held.path().join("file"), "x").unwrap();
        // A killed command's: what it locked the kernel has let go of.
        let left = root.join("staging-left");
        fs::create_dir_all(left.join("0/objects")).unwrap();
        let elsewhere = place.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&elsewhere, left.join("link")).unwrap();
        // Not ours: another name, a file, a link.
        fs::create_dir(root.join("other")).unwrap();
        fs::write(root.join("staging-file"), "x").unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join("staging-link")).unwrap();

        Staging::open(&root).unwrap();
        let name = held
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let mut expected = vec![
            "other".to_owned(),
            "staging-file".into(),
            "staging-link".into(),
            name,
        ];
        expected.sort();
        assert_eq!(names(&root), expected);
        assert!(held.path().join("file").exists());
        assert!(elsewhere.join("file").exists());

        drop(held);
        assert_eq!(names(&root), ["other", "staging-file", "staging-link"]);
    }

    #[test]
    fn it_is_the_users_alone_and_a_file_has_no_name() {
        let place = tempfile::tempdir().unwrap();
        let staging = Staging::open(place.path()).unwrap();
        let file = staging.file().unwrap();
        assert!(names(place.path()).is_empty());
        let folder = staging.folder().unwrap();
        let mode = fs::metadata(folder.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(file);
    }

    #[test]
    fn who_sweeps_and_who_makes_do_not_meet() {
        let place = tempfile::tempdir().unwrap();
        let staging = Staging::open(place.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let folder = staging.folder().unwrap();
                        sweep(place.path(), PREFIX);
                        fs::write(folder.path().join("file"), "x").unwrap();
                    }
                });
            }
        });
        assert!(names(place.path()).is_empty());
    }

    #[test]
    fn where_nothing_can_be_made_that_is_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Staging::open(file.path().join("x")).is_err());
        let place = tempfile::tempdir().unwrap();
        let staging = Staging::open(place.path().join("gone")).unwrap();
        fs::remove_dir(place.path().join("gone")).unwrap();
        assert!(staging.folder().is_err() && staging.file().is_err());
    }
}
