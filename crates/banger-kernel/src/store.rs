//! The kernels on disk: a folder for each kernel, with its record.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_core::{Digest, ImageName, KernelName};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::ImportError;
use crate::error::Context;

/// Name of the record in a kernel's folder.
pub(crate) const RECORD: &str = "kernel.json";
pub(crate) const OWN_INITRD: &str = "initrd-own.cpio";
/// Folders that are being deleted.
const GOING: &str = ".going-";
/// Whose lock is held while kernels are looked for and deleted.
const TURN: &str = ".turn";

/// Why a kernel was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// There is none of that name.
    #[error("there is no kernel `{0}`")]
    NotFound(KernelName),
    /// Somebody needs it.
    #[error("it is used by {}", .0.join(", "))]
    InUse(Vec<String>),
    /// A file or folder could not be used.
    #[error("failed to remove it")]
    Io(#[from] io::Error),
}

/// What is known of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// Name.
    pub name: KernelName,
    /// `uname -r`.
    pub release: String,
    /// SHA-256 of the ELF image.
    pub digest: Digest,
    /// Where it came from, for people.
    pub source: String,
    /// Whether a VMM can enter it directly.
    pub pvh: bool,
    /// Whether it has a modules drive.
    pub modules: bool,
    /// Whether it came with an initramfs of its own, which runs before nothing but gives its files.
    #[serde(default)]
    pub initrd: bool,
    /// The image that it was registered with, and goes with.
    #[serde(default)]
    pub of_image: Option<ImageName>,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// A kernel and where its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What is known of it.
    pub record: KernelRecord,
    folder: PathBuf,
}

impl Kernel {
    /// The ELF image.
    #[must_use]
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The modules drive.
    #[must_use]
    pub fn modules(&self) -> Option<PathBuf> {
        self.record
            .modules
            .then(|| self.folder.join("modules.ext4"))
    }

    /// What of it goes into every initramfs.
    #[must_use]
    pub fn segment(&self) -> PathBuf {
        self.folder.join("initrd-kernel.cpio")
    }

    /// Its own initramfs.
    #[must_use]
    pub fn own_initrd(&self) -> Option<PathBuf> {
        self.record.initrd.then(|| self.folder.join(OWN_INITRD))
    }
}

/// The kernel store.
#[derive(Debug, Clone)]
pub struct KernelStore {
    root: PathBuf,
}

impl KernelStore {
    /// Opens the store, and removes what an interrupted import has left.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(".tmp-") || name.starts_with(GOING) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Every kernel, by name. A folder without a readable record is none.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<Kernel>> {
        let mut kernels = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.parse().ok());
            kernels.extend(name.and_then(|name: KernelName| self.get(&name)));
        }
        kernels.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(kernels)
    }

    /// The kernel of that name.
    #[must_use]
    pub fn get(&self, name: &KernelName) -> Option<Kernel> {
        // Never between a deletion's question for users and its end.
        let _turn = self.turn(FlockOperation::LockShared).ok()?;
        let folder = self.root.join(name.as_str());
        let record = fs::read(folder.join(RECORD)).ok()?;
        Some(Kernel {
            record: serde_json::from_slice(&record).ok()?,
            folder,
        })
    }

    fn turn(&self, operation: FlockOperation) -> io::Result<fs::File> {
        let mut options = fs::File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(self.root.join(TURN))?;
        flock(&file, operation)?;
        Ok(file)
    }

    /// Deletes a kernel, unless `users` names somebody. Whoever looks for it meanwhile waits for the answer. It is
    /// renamed first, which is what counts: the rest is finished when the store is opened the next time. Returns the
    /// bytes that became free.
    ///
    /// # Errors
    /// See [`DeleteError`].
    pub fn delete(
        &self,
        name: &KernelName,
        users: impl FnOnce() -> Vec<String>,
    ) -> Result<u64, DeleteError> {
        let folder = self.root.join(name.as_str());
        let going = {
            let _turn = self.turn(FlockOperation::LockExclusive)?;
            if !folder.is_dir() {
                return Err(DeleteError::NotFound(name.clone()));
            }
            let users = users();
            if !users.is_empty() {
                return Err(DeleteError::InUse(users));
            }
            let mut going = tempfile::Builder::new();
            let going = going.prefix(GOING).tempdir_in(&self.root)?.keep();
            fs::rename(&folder, &going)?;
            fs::File::open(&self.root)?.sync_all()?;
            going
        };
        let mut freed = 0;
        for file in fs::read_dir(&going)? {
            freed += file?.metadata()?.blocks() * 512;
        }
        fs::remove_dir_all(&going)?;
        Ok(freed)
    }

    /// What images without a kernel of their own boot: the newest import that is no image's own.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn default_kernel(&self) -> io::Result<Option<Kernel>> {
        let newest = |kernel: &Kernel| kernel.record.created_at.clone();
        let all = self.list()?.into_iter();
        let shared = all.filter(|kernel| kernel.record.of_image.is_none());
        Ok(shared.max_by_key(newest))
    }

    /// A kernel that was an image's own does not go with the image any more.
    ///
    /// # Errors
    /// Its record could not be written.
    pub fn share(&self, mut kernel: Kernel) -> Result<Kernel, ImportError> {
        if kernel.record.of_image.is_some() {
            kernel.record.of_image = None;
            let path = kernel.folder.join(RECORD);
            let json = serde_json::to_vec_pretty(&kernel.record).map_err(io::Error::from);
            let next =
                tempfile::NamedTempFile::new_in(&self.root).context("write to", &self.root)?;
            let written = json.and_then(|json| fs::write(next.path(), json));
            let written = written.and_then(|()| next.persist(&path).map_err(|error| error.error));
            written.context("write", path)?;
        }
        Ok(kernel)
    }

    /// Takes a finished import into the store.
    pub(crate) fn adopt(
        &self,
        from: &Path,
        record: KernelRecord,
        replace: bool,
    ) -> Result<Kernel, ImportError> {
        let folder = self.root.join(record.name.as_str());
        if let Some(existing) = self.get(&record.name) {
            if existing.record.digest == record.digest {
                return if record.of_image.is_none() {
                    self.share(existing)
                } else {
                    Ok(existing)
                };
            }
            if !replace {
                return Err(ImportError::NameTaken(record.name.to_string()));
            }
        }
        if folder.exists() {
            // VMs that run have links of their own to the old files.
            fs::remove_dir_all(&folder).context("remove", &folder)?;
        }
        fs::rename(from, &folder).context("move the import to", &folder)?;
        Ok(Kernel { record, folder })
    }
}
