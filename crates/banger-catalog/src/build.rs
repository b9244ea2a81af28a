//! Making a catalog: a folder whose index is not signed yet.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_core::{Digest, ImageName, KernelName};
use banger_oci::Watch;

use crate::catalog::{ensure_folder, percent, read_small};
use crate::error::{CatalogError, Context};
use crate::index::{CatalogImage, CatalogKernel, FORMAT, INDEX_MAX, Index, Packed, Provenance};
use crate::squeeze::compress;
use crate::{BLOBS, INDEX, SIGNATURE};

const HERE: &str = std::env::consts::ARCH;

/// A catalog in the making.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
    index: Index,
}

/// An image to put in.
#[derive(Debug, Clone)]
pub struct ImageFiles {
    /// Name.
    pub name: ImageName,
    /// By which images are told apart.
    pub digest: Digest,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// The kernel that it is booted with.
    pub kernel: Option<KernelName>,
    /// Units that it promises.
    pub ready: Vec<String>,
    /// What is in it.
    pub contents: Vec<String>,
    /// Fingerprint of its recipe.
    pub recipe_fingerprint: Option<Digest>,
    /// The OCI image that it was made of.
    pub origin: Option<Provenance>,
    /// Root file system.
    pub rootfs: PathBuf,
    /// Prepared `/root`.
    pub work_seed: Option<PathBuf>,
}

/// A kernel to put in.
#[derive(Debug, Clone)]
pub struct KernelFiles {
    /// Name.
    pub name: KernelName,
    /// Its `uname -r`.
    pub release: String,
    /// SHA-256 of its ELF image.
    pub digest: Digest,
    /// Where it comes from, for people.
    pub source: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// ELF image.
    pub vmlinux: PathBuf,
    /// What of it goes into every initramfs.
    pub segment: PathBuf,
    /// Drive of modules.
    pub modules: Option<PathBuf>,
    /// An initramfs of its own.
    pub initrd: Option<PathBuf>,
}

impl Draft {
    /// The catalog in a folder, to which more is added; an empty one where there is none yet.
    ///
    /// # Errors
    /// There is an index that cannot be used, or a folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self, CatalogError> {
        ensure_folder(&folder.join(BLOBS))?;
        let index = match read_small(folder, INDEX, INDEX_MAX) {
            Ok(bytes) => Index::parse(&bytes)?,
            Err(CatalogError::Missing { .. }) => Index {
                format: FORMAT,
                serial: 0,
                created_at: String::new(),
                images: vec![],
                kernels: vec![],
            },
            Err(error) => return Err(error),
        };
        let folder = folder.to_owned();
        let draft = Self { folder, index };
        draft.clear_halves()?;
        Ok(draft)
    }

    /// What is in it.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Puts an image in, in place of one of that name for this architecture.
    ///
    /// # Errors
    /// See [`CatalogError`]; the folder's index is as before.
    pub fn add_image(&mut self, image: ImageFiles, watch: &dyn Watch) -> Result<(), CatalogError> {
        watch.step(&format!("packing the image {}", image.name));
        let entry = CatalogImage {
            architecture: HERE.to_owned(),
            rootfs: self.pack(&image.rootfs, watch)?,
            work_seed: self.pack_one(image.work_seed.as_deref(), watch)?,
            name: image.name,
            digest: image.digest,
            created_at: image.created_at,
            kernel: image.kernel,
            ready: image.ready,
            contents: image.contents,
            recipe_fingerprint: image.recipe_fingerprint,
            origin: image.origin,
        };
        let is_same =
            |old: &CatalogImage| old.name == entry.name && old.architecture == entry.architecture;
        self.index.images.retain(|old| !is_same(old));
        self.index.images.push(entry);
        Ok(())
    }

    /// Puts a kernel in, in place of one of that name for this architecture.
    ///
    /// # Errors
    /// See [`CatalogError`]; the folder's index is as before.
    pub fn add_kernel(
        &mut self,
        kernel: KernelFiles,
        watch: &dyn Watch,
    ) -> Result<(), CatalogError> {
        watch.step(&format!("packing the kernel {}", kernel.name));
        let entry = CatalogKernel {
            architecture: HERE.to_owned(),
            vmlinux: self.pack(&kernel.vmlinux, watch)?,
            segment: self.pack(&kernel.segment, watch)?,
            modules: self.pack_one(kernel.modules.as_deref(), watch)?,
            initrd: self.pack_one(kernel.initrd.as_deref(), watch)?,
            name: kernel.name,
            release: kernel.release,
            digest: kernel.digest,
            source: kernel.source,
            created_at: kernel.created_at,
        };
        let is_same =
            |old: &CatalogKernel| old.name == entry.name && old.architecture == entry.architecture;
        self.index.kernels.retain(|old| !is_same(old));
        self.index.kernels.push(entry);
        Ok(())
    }

    /// Writes the index, and removes the signature of the older one and the files that it does not name any more.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn finish(mut self) -> Result<Index, CatalogError> {
        let now = jiff::Timestamp::now();
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        self.index.serial = seconds.max(self.index.serial + 1);
        self.index.created_at = now.to_string();
        let name = |image: &CatalogImage| (image.name.clone(), image.architecture.clone());
        self.index.images.sort_by_key(name);
        let name = |kernel: &CatalogKernel| (kernel.name.clone(), kernel.architecture.clone());
        self.index.kernels.sort_by_key(name);
        let json = serde_json::to_vec_pretty(&self.index).map_err(std::io::Error::from);
        let json = json.context("write", self.folder.join(INDEX))?;
        // What nobody could take is not offered.
        Index::parse(&json)?;
        let signature = self.folder.join(SIGNATURE);
        match fs::remove_file(&signature) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("remove", signature);
            }
            _ => {}
        }
        write_whole(&self.folder, INDEX, &json)?;
        remove_others(&self.folder, &self.index)?;
        Ok(self.index)
    }

    fn pack_one(
        &self,
        path: Option<&Path>,
        watch: &dyn Watch,
    ) -> Result<Option<Packed>, CatalogError> {
        path.map(|path| self.pack(path, watch)).transpose()
    }

    /// Compresses a file into the folder.
    fn pack(&self, path: &Path, watch: &dyn Watch) -> Result<Packed, CatalogError> {
        let blobs = self.folder.join(BLOBS);
        let from = File::open(path).context("read", path)?;
        let size = from.metadata().context("read", path)?.len();
        let to = tempfile::Builder::new().prefix(HALF).tempfile_in(&blobs);
        let to = to.context("write to", &blobs)?;
        let shown = path.file_name().unwrap_or_default().to_string_lossy();
        let tell = percent(&shown, size, watch);
        let packed = compress(&from, to.as_file(), &tell).context("pack", path)?;
        let packed = packed.ok_or(CatalogError::Cancelled)?;
        to.as_file()
            .set_permissions(Permissions::from_mode(0o644))
            .and_then(|()| to.as_file().sync_all())
            .context("write to", &blobs)?;
        let home = blobs.join(packed.blob.as_str());
        let kept = to.persist(&home).map_err(|error| error.error);
        kept.context("write", home)?;
        Ok(packed)
    }

    fn clear_halves(&self) -> Result<(), CatalogError> {
        let blobs = self.folder.join(BLOBS);
        for entry in fs::read_dir(&blobs).context("read", &blobs)? {
            let entry = entry.context("read", &blobs)?;
            if entry.file_name().to_string_lossy().starts_with(HALF) {
                fs::remove_file(entry.path()).context("remove", entry.path())?;
            }
        }
        Ok(())
    }
}

/// Files that are on their way.
const HALF: &str = ".half-";

/// Writes a file of a folder so that whoever reads it sees the old one or the new one.
pub(crate) fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), CatalogError> {
    let next = tempfile::NamedTempFile::new_in(folder).context("write to", folder)?;
    let home = folder.join(name);
    let written = fs::write(next.path(), bytes)
        .and_then(|()| {
            let file = next.as_file();
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.sync_all()
        })
        .and_then(|()| next.persist(&home).map_err(|error| error.error));
    written.context("write", home)?;
    Ok(())
}

/// Removes compressed files that an index does not name.
pub(crate) fn remove_others(folder: &Path, index: &Index) -> Result<(), CatalogError> {
    let blobs = folder.join(BLOBS);
    let keep = index.blobs();
    for entry in fs::read_dir(&blobs).context("read", &blobs)? {
        let entry = entry.context("read", &blobs)?;
        let name = entry.file_name();
        let digest = name.to_str().and_then(|name| name.parse::<Digest>().ok());
        // What has another name is somebody else's.
        if digest.is_some_and(|digest| keep.iter().all(|blob| blob.digest != digest)) {
            fs::remove_file(entry.path()).context("remove", entry.path())?;
        }
    }
    Ok(())
}
