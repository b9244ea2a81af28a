//! Deleting images, and artefacts that nobody needs any more: renamed first, which is what counts; a deletion
//! that was cut short there is finished when the store is opened the next time.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_core::{Digest, ImageName};

use crate::file_error::{Context, FileError};
use crate::store::ImageStore;

/// Folders that are being deleted.
const GOING: &str = ".going-";

/// Why an image was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// There is none of that name.
    #[error("there is no image `{0}`")]
    NotFound(ImageName),
    /// Somebody needs it.
    #[error("it is used by {}", .0.join(", "))]
    InUse(Vec<String>),
    /// It is being pulled or promoted.
    #[error("a pull, registration or promotion of it goes on")]
    Busy,
    /// A file or folder could not be used.
    #[error(transparent)]
    Io(#[from] FileError),
}

impl ImageStore {
    /// Deletes an image with all its artefacts, unless `users` names somebody; files outside of the store are
    /// left alone. Whoever looks for the image while `users` is asked waits for the answer. Returns the bytes that
    /// became free.
    ///
    /// # Errors
    /// See [`DeleteError`].
    pub fn delete(
        &self,
        name: &ImageName,
        users: impl FnOnce() -> Vec<String>,
    ) -> Result<u64, DeleteError> {
        let home = self.root().join(name.as_str());
        let Some(_alone) = self.try_alone(name).context("lock", &home)? else {
            return Err(DeleteError::Busy);
        };
        let going = {
            let _turn = self.turn_to_change().context("lock", self.root())?;
            if !home.is_dir() {
                return Err(DeleteError::NotFound(name.clone()));
            }
            let users = users();
            if !users.is_empty() {
                return Err(DeleteError::InUse(users));
            }
            self.put_aside(&home).context("rename", &home)?
        };
        let mut freed = finish(&going).context("remove", &going)?;
        // Layers that stay are removed after the next pull.
        freed += self.prune_layers().unwrap_or_default();
        Ok(freed)
    }

    /// Removes artefacts of that name that it does not mean any more, but for those to `keep`: `None` keeps all.
    ///
    /// # Errors
    /// A folder cannot be read or removed.
    pub fn discard_old(
        &self,
        name: &ImageName,
        keep: impl FnOnce() -> Option<Vec<Digest>>,
    ) -> io::Result<u64> {
        let home = self.root().join(name.as_str());
        let mut going = Vec::new();
        {
            let _turn = self.turn_to_change()?;
            let Some(current) = self.current(name) else {
                return Ok(0);
            };
            let Some(mut keep) = keep() else {
                return Ok(0);
            };
            keep.push(current);
            for entry in fs::read_dir(&home)? {
                let entry = entry?;
                let folder = entry.file_name();
                let is_kept = keep.iter().any(|digest| folder == *digest.short());
                if entry.file_type()?.is_dir() && !is_kept {
                    going.push(self.put_aside(&entry.path())?);
                }
            }
        }
        going.iter().map(|folder| finish(folder)).sum()
    }

    /// From here on it is gone.
    fn put_aside(&self, folder: &Path) -> io::Result<PathBuf> {
        let aside = tempfile::Builder::new()
            .prefix(GOING)
            .tempdir_in(self.root())?
            .keep();
        fs::rename(folder, &aside)?;
        for changed in [folder.parent(), Some(self.root())].into_iter().flatten() {
            fs::File::open(changed)?.sync_all()?;
        }
        Ok(aside)
    }

    /// Finishes deletions that were cut short.
    pub(crate) fn finish_deletions(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(GOING) {
                finish(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn finish(folder: &Path) -> io::Result<u64> {
    let freed = occupied(folder);
    match fs::remove_dir_all(folder) {
        // Another daemon or build finished it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(freed),
        other => other.map(|()| freed),
    }
}

fn occupied(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => occupied(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
