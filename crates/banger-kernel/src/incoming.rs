//! Taking a kernel that was imported elsewhere, from a catalog for example. What its files say counts, not what is said
//! of them.

use std::fs;
use std::path::PathBuf;

use banger_core::{Digest, ImageName, KernelName};
use sha2::{Digest as _, Sha256};

use crate::error::Context;
use crate::import::{MAX_KERNEL_FILE, not_a_kernel};
use crate::store::{Kernel, KernelRecord, KernelStore, OWN_INITRD, RECORD};
use crate::{ImportError, elf};

/// A kernel on its way. Dropped, nothing of it is left.
#[derive(Debug)]
pub struct Incoming<'a> {
    store: &'a KernelStore,
    folder: tempfile::TempDir,
}

/// What is said of it.
#[derive(Debug, Clone)]
pub struct IncomingRecord {
    /// Name.
    pub name: KernelName,
    /// `uname -r`.
    pub release: String,
    /// SHA-256 of the ELF image.
    pub digest: Digest,
    /// Where it comes from, for people.
    pub source: String,
    /// The image that it goes with.
    pub of_image: Option<ImageName>,
}

impl KernelStore {
    /// Begins.
    ///
    /// # Errors
    /// A folder could not be made.
    pub fn receive(&self) -> Result<Incoming<'_>, ImportError> {
        let folder = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempdir_in(self.root());
        let folder = folder.context("make a folder in", self.root())?;
        let files = folder.path().join("kernel");
        fs::create_dir(&files).context("make", files)?;
        let store = self;
        Ok(Incoming { store, folder })
    }
}

impl Incoming<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("kernel").join(name)
    }

    /// Where its ELF image is to be put.
    #[must_use]
    pub fn vmlinux(&self) -> PathBuf {
        self.file("vmlinux")
    }

    /// Where that is to be put which goes into every initramfs.
    #[must_use]
    pub fn segment(&self) -> PathBuf {
        self.file("initrd-kernel.cpio")
    }

    /// Where its drive of modules is to be put, when it has one.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.file("modules.ext4")
    }

    /// Where its own initramfs is to be put, when it has one.
    #[must_use]
    pub fn own_initrd(&self) -> PathBuf {
        self.file(OWN_INITRD)
    }

    /// Takes it into the store. One that is there already stays.
    ///
    /// # Errors
    /// It is no kernel for this machine, or another one than was said; another kernel has the name.
    pub fn keep(self, said: IncomingRecord) -> Result<Kernel, ImportError> {
        let path = self.vmlinux();
        let size = fs::metadata(&path).context("read", &path)?.len();
        if size > MAX_KERNEL_FILE {
            return Err(not_a_kernel(&path, "it has more than 1 GiB".into()));
        }
        let vmlinux = fs::read(&path).context("read", &path)?;
        let facts = elf::inspect(&vmlinux).map_err(|why| not_a_kernel(&path, why))?;
        let digest = Digest::of_sha256(Sha256::digest(&vmlinux).into());
        let release = elf::release(&vmlinux);
        if digest != said.digest || release.as_ref() != Some(&said.release) {
            let why = format!("it is not {}, as was said of it", said.release);
            return Err(not_a_kernel(&path, why));
        }
        let record = KernelRecord {
            name: said.name,
            release: said.release,
            digest,
            source: said.source,
            pvh: facts.pvh,
            modules: self.modules().exists(),
            initrd: self.own_initrd().exists(),
            of_image: said.of_image,
            created_at: jiff::Timestamp::now().to_string(),
        };
        let json = serde_json::to_vec_pretty(&record).map_err(std::io::Error::from);
        let written = json.and_then(|json| fs::write(self.file(RECORD), json));
        written.context("write", self.file(RECORD))?;
        let files = self.folder.path().join("kernel");
        self.store.adopt(&files, record, false)
    }
}
