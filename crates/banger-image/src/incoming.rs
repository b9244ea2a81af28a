//! Taking an image whose files somebody else brings, from a catalog for example.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use banger_core::{Digest, ImageName};
use banger_oci::Watch;

use crate::error::BuildError;
use crate::file_error::{Context, FileError};
use crate::store::{Image, ImageRecord, ImageStore, ROOTFS, WORK_SEED};

/// How often the lock of a name is tried.
const TICK: Duration = Duration::from_millis(100);

/// An image on its way. Dropped, nothing of it is left.
#[derive(Debug)]
pub struct Incoming<'a> {
    store: &'a ImageStore,
    name: ImageName,
    folder: tempfile::TempDir,
    /// Nobody else changes what the name means, and nobody clears the folder away.
    _locks: [File; 2],
}

impl ImageStore {
    /// Begins. One at a time for each name: the second finds what the first has brought. `None` when nobody wants it
    /// any more.
    ///
    /// # Errors
    /// A file or folder could not be used.
    pub fn receive(
        &self,
        name: &ImageName,
        watch: &dyn Watch,
    ) -> Result<Option<Incoming<'_>>, FileError> {
        let shared = self.lock_promotions()?;
        let alone = loop {
            let lock = self
                .try_alone(name)
                .context("lock a name in", self.root())?;
            if let Some(lock) = lock {
                break lock;
            }
            if watch.cancelled() {
                return Ok(None);
            }
            watch.line("another operation on this name goes on");
            std::thread::park_timeout(TICK);
        };
        let folder = self.promotion_folder()?;
        let files = folder.path().join("image");
        fs::create_dir(&files).context("make", files)?;
        Ok(Some(Incoming {
            store: self,
            name: name.clone(),
            folder,
            _locks: [alone, shared],
        }))
    }
}

impl Incoming<'_> {
    fn files(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Where its root file system is to be put.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.files().join(ROOTFS)
    }

    /// Where its prepared `/root` is to be put, when it has one.
    #[must_use]
    pub fn work_seed(&self) -> PathBuf {
        self.files().join(WORK_SEED)
    }

    /// Whether the store has the files already: then only its record is missing.
    #[must_use]
    pub fn is_known(&self, digest: &Digest) -> bool {
        let known = self.store.artefact(&self.name, digest);
        known.is_some_and(|known| known.record.elsewhere.is_none())
    }

    /// Takes it into the store, in place of an older one of that name.
    ///
    /// # Errors
    /// A file or folder could not be used.
    pub fn keep(self, record: ImageRecord) -> Result<Image, FileError> {
        debug_assert_eq!(record.name, self.name);
        let kept = self.store.adopt(&self.files(), record);
        kept.map_err(BuildError::into_io)
            .context("keep the image in", self.store.root())
    }
}
