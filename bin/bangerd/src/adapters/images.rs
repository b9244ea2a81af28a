//! The image store as a port: an image that is missing is taken from the catalog, or built.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use banger_core::{Digest, ErrorCode, ImageName, nearest};
use banger_engine::ports::{Failure, Images, Progress, ResolvedImage};
use banger_image::{BuildError, BuildWatch, Image, ImageStore, Recipe};

use crate::builds::Builder;
use crate::catalogs::Catalogs;

/// The store, and what to build when it is empty.
#[derive(Debug)]
pub(crate) struct LocalImages {
    pub(crate) store: ImageStore,
    pub(crate) builder: Builder,
    pub(crate) catalogs: Arc<Catalogs>,
    pub(crate) default: ImageName,
    pub(crate) logs: PathBuf,
    /// One pull or build at a time: the second finds what the first has made.
    pub(crate) building: Mutex<()>,
}

/// A build's watcher over the engine's progress.
pub(crate) struct Watch<'a>(pub(crate) &'a dyn Progress);

impl BuildWatch for Watch<'_> {
    fn step(&self, title: &str) {
        self.0.part(title);
    }

    fn line(&self, text: &str) {
        let short: String = text.chars().filter(|c| !c.is_control()).take(100).collect();
        self.0.line(&short);
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

impl LocalImages {
    /// The image of that name. When it is missing it is taken from the catalog, or built where there is a recipe.
    pub(crate) fn find_or_build(
        &self,
        name: &ImageName,
        progress: &dyn Progress,
    ) -> Result<Image, Failure> {
        if let Some(image) = self.store.get(name) {
            return Ok(image);
        }
        let _one = self
            .building
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(image) = self.store.get(name) {
            return Ok(image);
        }
        let recipe = Recipe::load(name).ok();
        let or_else = recipe.as_ref().map(|_| "building the image");
        if let Some(catalog) = self.catalogs.with_image(name, or_else, progress)? {
            return self
                .catalogs
                .take_image(&catalog, name, name, None, progress);
        }
        let recipe = recipe.ok_or_else(|| unknown_image(&self.store, name))?;
        let log = self.logs.join(format!("image-{name}.log"));
        self.builder
            .build(&self.store, &recipe, &log, &Watch(progress))?;
        self.store
            .get(name)
            .ok_or_else(|| unknown_image(&self.store, name))
    }
}

/// Nothing of that name, and the name that may have been meant.
pub(crate) fn unknown_image(store: &ImageStore, name: &ImageName) -> Failure {
    let failure = Failure::new(
        ErrorCode::ImageNotFound,
        format!("there is no image `{name}`"),
    );
    let images = store.list().unwrap_or_default();
    let mut known: Vec<&str> = images
        .iter()
        .map(|image| image.record.name.as_str())
        .collect();
    for recipe in Recipe::names() {
        known.push(recipe);
    }
    match nearest(name.as_str(), known) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint("`banger image list` shows all images"),
    }
}

/// A failed build as a failure.
pub(crate) fn build_failure(name: &ImageName, error: &BuildError) -> Failure {
    let code = match error {
        _ if error.is_disk_full() => ErrorCode::DiskFull,
        BuildError::Missing { .. } => ErrorCode::HostNotReady,
        BuildError::Cancelled => ErrorCode::Cancelled,
        _ => ErrorCode::ImageBuildFailed,
    };
    let mut failure = Failure::because(
        code,
        format!("the image `{name}` could not be built"),
        error,
    );
    failure
        .causes
        .extend(error.tail().iter().rev().take(5).rev().cloned());
    match code {
        ErrorCode::HostNotReady => failure.hint("scripts/setup installs what the host needs"),
        ErrorCode::DiskFull => {
            failure.hint("building the default image takes about 3 GB there, and 1 GB in the end")
        }
        _ => failure,
    }
}

#[async_trait]
impl Images for LocalImages {
    async fn ensure(
        &self,
        name: Option<&ImageName>,
        progress: &dyn Progress,
    ) -> Result<ResolvedImage, Failure> {
        let name = name.unwrap_or(&self.default);
        // A build takes a minute and must see the caller's progress: its thread is lent for that long.
        let image = tokio::task::block_in_place(|| self.find_or_build(name, progress))?;
        resolved(image)
    }

    async fn by_digest(&self, name: &ImageName, digest: &Digest) -> Result<ResolvedImage, Failure> {
        let gone = || {
            let what = format!("the artefact {} of image `{name}` is gone", digest.short());
            Failure::new(ErrorCode::ImageNotFound, what)
                .hint("the VM was made from it and cannot start without")
        };
        self.store
            .artefact(name, digest)
            .ok_or_else(gone)
            .and_then(resolved)
    }
}

fn resolved(image: Image) -> Result<ResolvedImage, Failure> {
    if let Some(path) = image.changed() {
        let what = format!(
            "{} is gone or has changed since it was registered as the image `{}`",
            path.display(),
            image.record.name
        );
        return Err(Failure::new(ErrorCode::ImageNotFound, what)
            .hint("register it again for new VMs; `banger image promote` keeps a copy that nobody changes"));
    }
    Ok(ResolvedImage {
        rootfs: image.rootfs(),
        work_seed: image.work_seed(),
        name: image.record.name,
        digest: image.record.digest,
        kernel: image.record.kernel,
    })
}
