//! The catalog on disk: a folder for each kernel, with its record.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use banger_core::{Digest, KernelName};
use serde::{Deserialize, Serialize};

use crate::ImportError;
use crate::error::Context;

/// Name of the record in a kernel's folder.
pub(crate) const RECORD: &str = "kernel.json";

/// What is known of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// Name in the catalog.
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

    pub(crate) fn segment(&self) -> PathBuf {
        self.folder.join("initrd-kernel.cpio")
    }
}

/// The catalog.
#[derive(Debug, Clone)]
pub struct KernelStore {
    root: PathBuf,
}

impl KernelStore {
    /// Opens the catalog, and removes what an interrupted import has left.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".tmp-") {
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
        let folder = self.root.join(name.as_str());
        let record = fs::read(folder.join(RECORD)).ok()?;
        Some(Kernel {
            record: serde_json::from_slice(&record).ok()?,
            folder,
        })
    }

    /// What images without a kernel of their own boot: the newest import.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn default_kernel(&self) -> io::Result<Option<Kernel>> {
        let newest = |kernel: &Kernel| kernel.record.created_at.clone();
        Ok(self.list()?.into_iter().max_by_key(newest))
    }

    /// Takes a finished import into the catalog.
    pub(crate) fn adopt(
        &self,
        from: &Path,
        record: KernelRecord,
        replace: bool,
    ) -> Result<Kernel, ImportError> {
        let folder = self.root.join(record.name.as_str());
        if let Some(existing) = self.get(&record.name) {
            if existing.record.digest == record.digest {
                return Ok(existing);
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
