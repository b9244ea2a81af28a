//! The configured catalog: what it has, and taking images and kernels from it into the stores.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use banger_catalog::{Catalog, CatalogError, Settings};
use banger_core::{ErrorCode, ImageName, KernelName};
use banger_engine::ports::{Failure, Progress};
use banger_image::{Image, ImageRecord, ImageStore, Origin};
use banger_kernel::{ImportError, IncomingRecord, Kernel, KernelStore};
use banger_oci::{Patience, PullError, RegistryError, Watch};

use crate::adapters::import_failure;
use crate::config::CatalogKeys;
use crate::pulls::{PullWatch, certificates};

/// How often it is asked whether another one takes a kernel still.
const TICK: Duration = Duration::from_millis(100);

/// Which catalog there is, and the stores that things go into.
#[derive(Debug)]
pub(crate) struct Catalogs {
    settings: Option<Settings>,
    images: ImageStore,
    kernels: KernelStore,
    /// One kernel at a time: the second finds what the first has taken.
    taking_kernel: Mutex<()>,
}

impl Catalogs {
    pub(crate) fn new(
        keys: &CatalogKeys,
        folder: PathBuf,
        images: ImageStore,
        kernels: KernelStore,
    ) -> Self {
        let pair = keys.location.clone().zip(keys.public_key.clone());
        let settings = pair.map(|(location, key)| Settings {
            location: location.below(&crate::start::home()),
            key,
            certificates: certificates(),
            // Whoever only wants a VM waits for it, too.
            patience: Patience {
                connect: Duration::from_secs(10),
                tries: 3,
                ..Patience::default()
            },
            folder,
        });
        Self {
            settings,
            images,
            kernels,
            taking_kernel: Mutex::default(),
        }
    }

    /// The catalog, its index checked; `None` when none is configured.
    pub(crate) fn open(&self, progress: &dyn Progress) -> Result<Option<Catalog>, CatalogError> {
        let Some(settings) = self.settings.clone() else {
            return Ok(None);
        };
        progress.line(&format!("reading the catalog at {}", settings.location));
        Catalog::open(settings, &PullWatch(progress)).map(Some)
    }

    /// The catalog, which must be there.
    pub(crate) fn require(&self, progress: &dyn Progress) -> Result<Catalog, Failure> {
        let opened = self.open(progress).map_err(|error| failure(&error))?;
        opened.ok_or_else(not_configured)
    }

    /// The catalog, when there is one with an image of that name for this machine. One that cannot be reached has
    /// nothing where `or_else` says what is done then.
    pub(crate) fn with_image(
        &self,
        name: &ImageName,
        or_else: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Option<Catalog>, Failure> {
        let opened = self.reached(or_else, progress)?;
        Ok(opened.filter(|catalog| catalog.image(name).is_ok()))
    }

    fn reached(
        &self,
        or_else: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Option<Catalog>, Failure> {
        match (self.open(progress), or_else) {
            (Ok(opened), _) => Ok(opened),
            (Err(error), Some(instead)) if error.is_unreachable() => {
                tracing::warn!("the catalog cannot be used: {}", failure(&error));
                progress.line(&format!("the catalog cannot be reached; {instead}"));
                Ok(None)
            }
            (Err(error), _) => Err(failure(&error)),
        }
    }

    /// Takes an image, and the kernel that it asks for unless another one is given. What is here is not fetched again.
    pub(crate) fn take_image(
        &self,
        catalog: &Catalog,
        name: &ImageName,
        to: &ImageName,
        kernel: Option<KernelName>,
        progress: &dyn Progress,
    ) -> Result<Image, Failure> {
        let watch = PullWatch(progress);
        let entry = catalog
            .image(name)
            .map_err(|others| absent("image", name.as_str(), &others))?;
        let wanted = kernel.or_else(|| entry.kernel.clone());
        if let Some(kernel) = &wanted
            && self.kernels.get(kernel).is_none()
        {
            self.take_kernel(catalog, kernel, Some(to), progress)?;
        }
        let broken = |error: &banger_image::FileError| {
            let code = if error.is_disk_full() {
                ErrorCode::DiskFull
            } else {
                ErrorCode::Internal
            };
            Failure::because(code, format!("the image `{to}` could not be kept"), error)
        };
        let incoming = self.images.receive(to, &watch);
        let Some(incoming) = incoming.map_err(|error| broken(&error))? else {
            return Err(failure(&CatalogError::Cancelled));
        };
        if !incoming.is_known(&entry.digest) {
            watch.step(&format!("taking {name} from the catalog"));
            let mut files = vec![(&entry.rootfs, incoming.rootfs())];
            files.extend(
                entry
                    .work_seed
                    .iter()
                    .map(|seed| (seed, incoming.work_seed())),
            );
            catalog
                .take(&files, &watch)
                .map_err(|error| failure(&error))?;
        }
        let record = ImageRecord {
            name: to.clone(),
            digest: entry.digest.clone(),
            recipe_fingerprint: entry.recipe_fingerprint.clone(),
            kernel: wanted,
            ready: entry.ready.clone(),
            contents: entry.contents.clone(),
            created_at: jiff::Timestamp::now().to_string(),
            origin: entry.origin.clone().map(|origin| Origin {
                reference: origin.reference,
                manifest: None,
                blobs: vec![],
                config: origin.config,
            }),
            elsewhere: None,
            catalog: Some(catalog.location().to_string()),
            built: None,
            seed: None,
        };
        incoming.keep(record).map_err(|error| broken(&error))
    }

    /// Takes a kernel; with an image it goes when the image goes.
    pub(crate) fn take_kernel(
        &self,
        catalog: &Catalog,
        name: &KernelName,
        of_image: Option<&ImageName>,
        progress: &dyn Progress,
    ) -> Result<Kernel, Failure> {
        let watch = PullWatch(progress);
        let entry = catalog
            .kernel(name)
            .map_err(|others| absent("kernel", name.as_str(), &others))?;
        let _one = loop {
            match self.taking_kernel.try_lock() {
                Ok(one) => break one,
                Err(std::sync::TryLockError::Poisoned(one)) => break one.into_inner(),
                Err(std::sync::TryLockError::WouldBlock) if watch.cancelled() => {
                    return Err(failure(&CatalogError::Cancelled));
                }
                Err(std::sync::TryLockError::WouldBlock) => std::thread::park_timeout(TICK),
            }
        };
        let refused = |error: ImportError| import_failure(&error);
        if let Some(known) = self.kernels.get(name) {
            return match of_image {
                // By this name the image asks for it, wherever it came from.
                Some(_) => Ok(known),
                None if known.record.digest == entry.digest => {
                    self.kernels.share(known).map_err(refused)
                }
                None => Err(refused(ImportError::NameTaken(name.to_string()))),
            };
        }
        let incoming = self.kernels.receive().map_err(refused)?;
        watch.step(&format!("taking the kernel {name} from the catalog"));
        let mut files = vec![
            (&entry.vmlinux, incoming.vmlinux()),
            (&entry.segment, incoming.segment()),
        ];
        files.extend(
            entry
                .modules
                .iter()
                .map(|drive| (drive, incoming.modules())),
        );
        files.extend(
            entry
                .initrd
                .iter()
                .map(|initrd| (initrd, incoming.own_initrd())),
        );
        catalog
            .take(&files, &watch)
            .map_err(|error| failure(&error))?;
        let said = IncomingRecord {
            name: entry.name.clone(),
            release: entry.release.clone(),
            digest: entry.digest.clone(),
            source: format!("catalog {}", catalog.location()),
            of_image: of_image.cloned(),
        };
        incoming.keep(said).map_err(refused)
    }

    /// The kernel for images that name none, where there is none here yet.
    pub(crate) fn take_default_kernel(
        &self,
        progress: &dyn Progress,
    ) -> Result<Option<Kernel>, Failure> {
        let Some(catalog) = self.reached(Some("importing a kernel"), progress)? else {
            return Ok(None);
        };
        let Some(entry) = catalog.default_kernel() else {
            return Ok(None);
        };
        let name = entry.name.clone();
        self.take_kernel(&catalog, &name, None, progress).map(Some)
    }

    /// A kernel that is not here, when the catalog has it.
    pub(crate) fn find_kernel(
        &self,
        name: &KernelName,
        progress: &dyn Progress,
    ) -> Result<Option<Kernel>, Failure> {
        let opened = self.open(progress).map_err(|error| failure(&error))?;
        let Some(catalog) = opened.filter(|catalog| catalog.kernel(name).is_ok()) else {
            return Ok(None);
        };
        self.take_kernel(&catalog, name, None, progress).map(Some)
    }
}

/// There is none to ask.
pub(crate) fn not_configured() -> Failure {
    Failure::new(ErrorCode::CatalogNotFound, "no catalog is configured")
        .hint("[catalog] in config.toml says where one is and who signs it: docs/images.md")
}

/// The catalog has nothing of that name for this machine.
fn absent(what: &str, name: &str, others: &[String]) -> Failure {
    let code = match what {
        "kernel" => ErrorCode::KernelNotFound,
        _ => ErrorCode::ImageNotFound,
    };
    let told = match others {
        [] => format!("the catalog has no {what} `{name}`"),
        others => format!(
            "the catalog has the {what} `{name}` for {}, and this machine is {}",
            others.join(", "),
            std::env::consts::ARCH
        ),
    };
    Failure::new(code, told).hint(format!(
        "`banger {what} list --available` shows what it has"
    ))
}

/// A catalog that could not be used, as a failure.
pub(crate) fn failure(error: &CatalogError) -> Failure {
    let code = match error {
        _ if error.is_disk_full() => ErrorCode::DiskFull,
        CatalogError::Cancelled => ErrorCode::Cancelled,
        _ => ErrorCode::CatalogFailed,
    };
    let what = "the catalog could not be used";
    let told = match error {
        CatalogError::Cancelled => Failure::new(code, "the pull was cancelled"),
        _ => Failure::because(code, what, error),
    };
    match error {
        _ if code == ErrorCode::DiskFull => {
            told.hint("make room, and pull again: what came whole is kept")
        }
        CatalogError::UnknownKey => told.hint(
            "ask whoever makes the catalog for the key, and put it into catalog.public_key in config.toml only if you trust the answer",
        ),
        CatalogError::Signature(_) => {
            told.hint("nothing of it was used; whoever makes the catalog publishes it anew, or somebody is in between")
        }
        CatalogError::NewerFormat(_) => told.hint("install a newer banger"),
        CatalogError::Older { .. } => told.hint(
            "somebody may be putting an old catalog in the place of the new one; if it was meant, remove the file `seen-…` from the folder `catalog` of the state directory",
        ),
        CatalogError::Missing { .. } => {
            told.hint("catalog.location in config.toml is the folder that has index.json in it")
        }
        CatalogError::Fetch(PullError::Registry(RegistryError::Unreachable { .. })) => told.hint(
            "check catalog.location in config.toml and the network; certificates of your own belong into /etc/containers/certs.d/HOST:PORT/*.crt",
        ),
        CatalogError::Fetch(_) => told.hint("pull again later: what came whole is kept"),
        CatalogError::Blob { .. } => told.hint("whoever makes the catalog publishes it anew"),
        _ => told,
    }
}
