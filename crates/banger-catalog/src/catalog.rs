//! Taking from a catalog: nothing of its index is read before the signature was checked, and no file is used before
//! its size and digest were.

use std::cell::Cell;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_oci::{BlobStore, Patience, PullError, RegistryError, Remote, Watch};

use crate::error::{BlobError, CatalogError, Context};
use crate::index::{INDEX_MAX, Index, Packed, SIGNATURE_MAX};
use crate::location::Location;
use crate::memory;
use crate::signature::TrustedKey;
use crate::squeeze::{SqueezeError, check, unpack};
use crate::{BLOBS, INDEX, SIGNATURE};

/// Which catalog, and how it is asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it is.
    pub location: Location,
    /// Who signs it.
    pub key: TrustedKey,
    /// Folders with a folder per server, `HOST:PORT`, of its authorities' certificates (`*.crt`).
    pub certificates: Vec<PathBuf>,
    /// How long a server is waited for.
    pub patience: Patience,
    /// Where is kept what came of it: files that are fetched, and how new its index was.
    pub folder: PathBuf,
}

/// A catalog whose index was read and found to be right.
#[derive(Debug, Clone)]
pub struct Catalog {
    settings: Settings,
    index: Index,
}

/// The architecture of this machine, as indexes call it.
const HERE: &str = std::env::consts::ARCH;

impl Catalog {
    /// Reads a catalog's index.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn open(settings: Settings, watch: &dyn Watch) -> Result<Self, CatalogError> {
        let (mut index, mut signature) = settings.read(watch)?;
        if let Err(error) = settings.key.check(&index, &signature) {
            // Between the one and the other the catalog may have been published anew.
            if matches!(settings.location, Location::Folder(_)) {
                return Err(error);
            }
            (index, signature) = settings.read(watch)?;
            settings.key.check(&index, &signature)?;
        }
        let index = Index::parse(&index)?;
        memory::check(
            &settings.folder,
            &settings.location,
            &settings.key,
            index.serial,
        )?;
        Ok(Self { settings, index })
    }

    /// What it has.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Where it is.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.settings.location
    }

    /// An image for this machine, or the other architectures that there is one of the name for.
    ///
    /// # Errors
    /// The architectures; none when there is no such image at all.
    pub fn image(
        &self,
        name: &banger_core::ImageName,
    ) -> Result<&crate::CatalogImage, Vec<String>> {
        let others = self.index.images.iter().filter(|image| image.name == *name);
        let others = others.map(|image| image.architecture.clone());
        self.index.image(name, HERE).ok_or_else(|| others.collect())
    }

    /// The same of a kernel.
    ///
    /// # Errors
    /// See [`Self::image`].
    pub fn kernel(
        &self,
        name: &banger_core::KernelName,
    ) -> Result<&crate::CatalogKernel, Vec<String>> {
        let all = self.index.kernels.iter();
        let others = all.filter(|kernel| kernel.name == *name);
        let others = others.map(|kernel| kernel.architecture.clone());
        let found = self.index.kernel(name, HERE);
        found.ok_or_else(|| others.collect())
    }

    /// The kernel for images that name none.
    #[must_use]
    pub fn default_kernel(&self) -> Option<&crate::CatalogKernel> {
        self.index.default_kernel(HERE)
    }

    /// Fetches files and unpacks them to new files of those paths, readable for all. What of an interrupted try is of
    /// use is used.
    ///
    /// # Errors
    /// See [`CatalogError`]. Files may have been made all the same.
    pub fn take(
        &self,
        files: &[(&Packed, PathBuf)],
        watch: &dyn Watch,
    ) -> Result<(), CatalogError> {
        match &self.settings.location {
            Location::Folder(folder) => {
                for (packed, to) in files {
                    let from = open_blob(&folder.join(BLOBS), packed)?;
                    unpack_to(&from, packed, to, watch)?;
                }
                Ok(())
            }
            Location::Server(url) => {
                let blobs = self.settings.blobs()?;
                {
                    let _in_use = blobs.in_use()?;
                    self.take_from(url, &blobs, files, watch)?;
                }
                // What came is unpacked; a failure to remove it is no failure of this.
                let _ = blobs.prune(&std::collections::HashSet::new());
                Ok(())
            }
        }
    }

    fn take_from(
        &self,
        url: &str,
        blobs: &BlobStore,
        files: &[(&Packed, PathBuf)],
        watch: &dyn Watch,
    ) -> Result<(), CatalogError> {
        let wanted = files.iter().map(|(packed, _)| packed.descriptor());
        let mut fetching = self.settings.remote(url)?.fetch(blobs, wanted.collect())?;
        for (number, (packed, to)) in files.iter().enumerate() {
            let from = fetching.blob(number, watch)?;
            let unpacked = unpack_to(&from, packed, to, watch);
            if let Err(CatalogError::Blob { blob, .. }) = &unpacked {
                // It was right when it came: whatever happened to it, the next try begins anew.
                blobs.forget(blob);
            }
            unpacked?;
        }
        Ok(())
    }
}

impl Settings {
    fn blobs(&self) -> Result<BlobStore, CatalogError> {
        let folder = self.folder.join(BLOBS);
        BlobStore::open(&folder).context("make", folder)
    }

    fn remote(&self, url: &str) -> Result<Remote, CatalogError> {
        Ok(Remote::new(url, &self.certificates, self.patience.clone())?)
    }

    fn read(&self, watch: &dyn Watch) -> Result<(Vec<u8>, Vec<u8>), CatalogError> {
        match &self.location {
            Location::Folder(folder) => Ok((
                read_small(folder, INDEX, INDEX_MAX)?,
                read_small(folder, SIGNATURE, SIGNATURE_MAX)?,
            )),
            Location::Server(url) => {
                let files = [(INDEX, INDEX_MAX), (SIGNATURE, SIGNATURE_MAX)];
                let asked = self.remote(url)?.small(files, watch);
                let [index, signature] = asked.map_err(|error| match &error {
                    PullError::Registry(RegistryError::NotFound { what, .. }) => missing(
                        if what == INDEX { INDEX } else { SIGNATURE },
                        &self.location,
                    ),
                    _ => error.into(),
                })?;
                Ok((index, signature))
            }
        }
    }
}

fn missing(what: &'static str, place: &impl ToString) -> CatalogError {
    CatalogError::Missing {
        what,
        place: place.to_string(),
    }
}

/// A small file of a folder.
pub(crate) fn read_small(
    folder: &Path,
    name: &'static str,
    max: u64,
) -> Result<Vec<u8>, CatalogError> {
    let path = folder.join(name);
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(missing(name, &folder.display()));
        }
        file => file.context("read", &path)?,
    };
    let mut bytes = Vec::new();
    // One more than is allowed: whoever reads it says that it is too long.
    let read = file.take(max + 1).read_to_end(&mut bytes);
    read.context("read", &path)?;
    Ok(bytes)
}

/// A compressed file of a folder, checked.
pub(crate) fn open_blob(folder: &Path, packed: &Packed) -> Result<File, CatalogError> {
    let path = folder.join(packed.blob.as_str());
    let bad = |source| CatalogError::Blob {
        blob: packed.blob.clone(),
        source,
    };
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(bad(BlobError::Missing));
        }
        file => file.context("read", &path)?,
    };
    check(&file, packed).map_err(|error| told(error, packed, "read", &path))?;
    Ok(file)
}

fn unpack_to(
    from: &File,
    packed: &Packed,
    to: &Path,
    watch: &dyn Watch,
) -> Result<(), CatalogError> {
    let file = File::create_new(to).context("make", to)?;
    let tell = percent("unpacking", packed.size, watch);
    unpack(from, packed, &file, &tell).map_err(|error| told(error, packed, "write", to))?;
    file.set_permissions(Permissions::from_mode(0o644))
        .and_then(|()| file.sync_all())
        .context("write", to)
}

/// Tells how far something is, once for each hundredth of `size`; false when nobody wants it any more.
pub(crate) fn percent(what: &str, size: u64, watch: &dyn Watch) -> impl Fn(u64) -> bool {
    let said = Cell::new(0);
    move |at| {
        let percent = u128::from(at) * 100 / u128::from(size.max(1));
        if said.replace(percent) != percent {
            watch.line(&format!("{what}: {percent} %"));
        }
        !watch.cancelled()
    }
}

/// A failure of (un)packing, with the file that it was about.
pub(crate) fn told(
    error: SqueezeError,
    packed: &Packed,
    what: &'static str,
    path: &Path,
) -> CatalogError {
    match error {
        SqueezeError::Cancelled => CatalogError::Cancelled,
        SqueezeError::Io(source) => CatalogError::Io {
            what,
            path: path.to_owned(),
            source,
        },
        SqueezeError::Blob(source) => CatalogError::Blob {
            blob: packed.blob.clone(),
            source,
        },
    }
}

/// Whether a folder is there.
pub(crate) fn ensure_folder(path: &Path) -> Result<(), CatalogError> {
    fs::create_dir_all(path).context("make", path)
}
