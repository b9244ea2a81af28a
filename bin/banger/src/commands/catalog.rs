//! `image list --available`, `kernel list --available`, `image catalog build`, `image catalog publish`.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use banger_api::{Availability, AvailableImage, AvailableKernel, Image, Kernel, Stage, StageState};
use banger_catalog::{
    CatalogError, Draft, ImageConfig, ImageFiles, KernelFiles, Provenance, SigningKey, Watch,
};
use banger_core::{ByteSize, ErrorCode};
use serde::Serialize;

use super::show::table;
use super::{CommandResult, Context, blocking};
use crate::cli::{CatalogBuildArgs, CatalogPublishArgs};
use crate::error::CommandError;
use crate::interrupt::Interrupts;
use crate::start::Needs;
use crate::ui::{Stages, Ui};

/// The key that is made when none is named.
const KEY: &str = "catalog.key";

fn state_word(state: Availability) -> String {
    match state {
        Availability::Absent => "",
        Availability::Present => "here",
        Availability::Other => "another one is here",
    }
    .to_owned()
}

fn day(time: &str) -> String {
    time.split('T').next().unwrap_or_default().to_owned()
}

/// `image list --available`.
pub(crate) async fn images(context: &Context<'_>) -> CommandResult {
    let catalog = context.client(Needs::Daemon).await?.catalog().await?;
    context.ui.result(&catalog, |catalog| {
        if catalog.images.is_empty() {
            return format!("{} has no images for this machine", catalog.location);
        }
        let row = |image: &AvailableImage| {
            vec![
                image.name.clone(),
                image.digest.get(..12).unwrap_or_default().to_owned(),
                ByteSize(image.download).to_string(),
                day(&image.created_at),
                image.kernel.clone().unwrap_or_else(|| "-".into()),
                state_word(image.state),
            ]
        };
        table(
            &["NAME", "DIGEST", "DOWNLOAD", "MADE", "KERNEL", ""],
            catalog.images.iter().map(row).collect(),
        )
    });
    Ok(0)
}

/// `kernel list --available`.
pub(crate) async fn kernels(context: &Context<'_>) -> CommandResult {
    let catalog = context.client(Needs::Daemon).await?.catalog().await?;
    context.ui.result(&catalog, |catalog| {
        if catalog.kernels.is_empty() {
            return format!("{} has no kernels for this machine", catalog.location);
        }
        let row = |kernel: &AvailableKernel| {
            vec![
                kernel.name.clone(),
                kernel.release.clone(),
                ByteSize(kernel.download).to_string(),
                day(&kernel.created_at),
                state_word(kernel.state),
            ]
        };
        table(
            &["NAME", "RELEASE", "DOWNLOAD", "MADE", ""],
            catalog.kernels.iter().map(row).collect(),
        )
    });
    Ok(0)
}

/// What `catalog build` has made.
#[derive(Debug, Serialize)]
struct Built {
    folder: PathBuf,
    images: Vec<String>,
    kernels: Vec<String>,
    size: u64,
}

/// `image catalog build`.
pub(crate) async fn build(context: &Context<'_>, args: CatalogBuildArgs) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let mut images = Vec::new();
    for name in &args.images {
        images.push(client.image(name.as_str()).await?);
    }
    let mut kernels = Vec::new();
    for name in &args.kernels {
        kernels.push(client.kernel(name.as_str()).await?);
    }
    let known = client.kernels().await?.kernels;
    for image in &images {
        if let Some(kernel) = kernel_of(&image.name, image.kernel.as_deref(), &known)?
            && kernels.iter().all(|have| have.name != kernel.name)
        {
            kernels.push(kernel.clone());
        }
    }
    let images = images.into_iter().map(|image| image_files(image, &known));
    let images = images.collect::<Result<Vec<_>, _>>()?;
    let kernels = kernels.into_iter().map(kernel_files);
    let kernels = kernels.collect::<Result<Vec<_>, _>>()?;
    let folder = args.folder;
    let shown = folder.clone();
    let index = at_work(context.ui, "catalog", move |watch| {
        let mut draft = Draft::open(&folder)?;
        for kernel in kernels {
            draft.add_kernel(kernel, watch)?;
        }
        for image in images {
            draft.add_image(image, watch)?;
        }
        draft.finish()
    })
    .await?;
    let built = Built {
        images: index
            .images
            .iter()
            .map(|one| one.name.to_string())
            .collect(),
        kernels: index
            .kernels
            .iter()
            .map(|one| one.name.to_string())
            .collect(),
        size: index.blobs().iter().map(|blob| blob.size).sum(),
        folder: shown,
    };
    context.ui.result(&built, |built| {
        let folder = built.folder.display();
        format!(
            "{folder}: images: {}; kernels: {} ({})\n  sign it: banger image catalog publish {folder}",
            listed(&built.images),
            listed(&built.kernels),
            ByteSize(built.size)
        )
    });
    Ok(0)
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

/// The kernel that an image is booted with: its own, or the default one, when there is one.
fn kernel_of<'a>(
    image: &str,
    own: Option<&str>,
    known: &'a [Kernel],
) -> Result<Option<&'a Kernel>, CommandError> {
    let mut known = known.iter();
    let found = known.find(|kernel| match own {
        Some(name) => kernel.name == name,
        None => kernel.default,
    });
    match (found, own) {
        (None, Some(name)) => {
            let what = format!("the kernel `{name}` of the image `{image}` is gone");
            Err(CommandError::new(ErrorCode::KernelNotFound, what))
        }
        _ => Ok(found),
    }
}

/// A part of what the daemon says of an image or a kernel.
fn read<T>(whose: &str, text: &str) -> Result<T, CommandError>
where
    T: FromStr,
    T::Err: std::error::Error + 'static,
{
    text.parse().map_err(|error: T::Err| {
        CommandError::internal(&format!("`{whose}` cannot be put into a catalog"), &error)
    })
}

fn image_files(image: Image, known: &[Kernel]) -> Result<ImageFiles, CommandError> {
    let name = &image.name;
    if let Some(path) = &image.changed {
        let what = format!("{path} is gone or has changed since it was registered as `{name}`");
        return Err(CommandError::new(ErrorCode::ImageNotFound, what)
            .hint("register it again, and promote it: `banger image promote`"));
    }
    let origin = match (&image.reference, image.config) {
        (Some(reference), Some(config)) => Some(Provenance {
            reference: read(name, reference)?,
            config: ImageConfig {
                entrypoint: config.entrypoint,
                cmd: config.cmd,
                env: config.env,
                user: config.user,
                working_dir: config.working_dir,
                exposed_ports: config.exposed_ports,
                stop_signal: config.stop_signal,
            },
        }),
        _ => None,
    };
    let kernel = kernel_of(name, image.kernel.as_deref(), known)?;
    let kernel = kernel.map(|kernel| read(name, &kernel.name));
    let recipe = image.recipe_fingerprint.as_deref();
    Ok(ImageFiles {
        name: read(name, name)?,
        digest: read(name, &image.digest)?,
        created_at: image.created_at,
        kernel: kernel.transpose()?,
        ready: image.ready,
        contents: image.contents,
        recipe_fingerprint: recipe.map(|digest| read(name, digest)).transpose()?,
        origin,
        rootfs: image.rootfs.into(),
        work_seed: image.work_seed.map(PathBuf::from),
    })
}

fn kernel_files(kernel: Kernel) -> Result<KernelFiles, CommandError> {
    Ok(KernelFiles {
        name: read(&kernel.name, &kernel.name)?,
        digest: read(&kernel.name, &kernel.digest)?,
        release: kernel.release,
        source: kernel.source,
        created_at: kernel.created_at,
        vmlinux: kernel.vmlinux.into(),
        segment: kernel.segment.into(),
        modules: kernel.modules.map(PathBuf::from),
        initrd: kernel.initrd.map(PathBuf::from),
    })
}

/// What `catalog publish` has done.
#[derive(Debug, Serialize)]
struct Published {
    folder: PathBuf,
    public_key: String,
    images: usize,
    kernels: usize,
    size: u64,
}

/// `image catalog publish`. It needs no daemon.
pub(crate) async fn publish(context: &Context<'_>, args: CatalogPublishArgs) -> CommandResult {
    let key = key(context, args.key)?;
    let (folder, to) = (args.folder, args.to);
    let shown = to.clone().unwrap_or_else(|| folder.clone());
    let done = at_work(context.ui, "catalog", move |watch| {
        banger_catalog::publish(&folder, &key, to.as_deref(), watch)
    })
    .await?;
    let published = Published {
        folder: std::path::absolute(&shown).unwrap_or(shown),
        public_key: done.key.as_str().to_owned(),
        images: done.images,
        kernels: done.kernels,
        size: done.size,
    };
    context.ui.result(&published, |published| {
        let folder = published.folder.display();
        format!(
            "{folder} is signed: {} images, {} kernels ({})\nconfig.toml of whoever takes from it, with the address where it is served:\n\n[catalog]\nlocation = \"{folder}\"\npublic_key = \"{}\"",
            published.images,
            published.kernels,
            ByteSize(published.size),
            published.public_key
        )
    });
    Ok(0)
}

/// The key that was named, or the one beside the configuration, which is made when it is missing.
fn key(context: &Context<'_>, named: Option<PathBuf>) -> Result<SigningKey, CommandError> {
    let ui = context.ui;
    let load = |path: &Path| {
        let question = format!("password of {}: ", path.display());
        SigningKey::load(path, || ui.secret(&question)).map_err(|error| told(&error))
    };
    if let Some(path) = named {
        return load(&path);
    }
    let path = context.paths.config_dir.join(KEY);
    if path.exists() {
        return load(&path);
    }
    let made = SigningKey::make(&path).map_err(|error| told(&error))?;
    ui.note(&format!(
        "made the key {}: keep it secret, and keep a copy",
        path.display()
    ));
    Ok(made)
}

fn told(error: &CatalogError) -> CommandError {
    let code = match error {
        _ if error.is_disk_full() => ErrorCode::DiskFull,
        CatalogError::Cancelled => ErrorCode::Cancelled,
        CatalogError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            ErrorCode::FileNotFound
        }
        CatalogError::SecretKey { .. } => ErrorCode::InvalidArgument,
        _ => ErrorCode::CatalogFailed,
    };
    let what = match code {
        ErrorCode::Cancelled => "cancelled; the catalog is as it was",
        _ => "the catalog could not be made",
    };
    let told = CommandError::because(code, what, error);
    match error {
        CatalogError::Missing { .. } => told.hint("`banger image catalog build` makes one"),
        _ => told,
    }
}

/// Does something that takes a while, off the runtime, and shows how far it is. An interrupt ends it.
async fn at_work<T: Send + 'static>(
    ui: &Ui,
    key: &'static str,
    work: impl FnOnce(&Steps) -> Result<T, CatalogError> + Send + 'static,
) -> Result<T, CommandError> {
    let steps = Arc::new(Steps::new(key, ui.stages()));
    let mut interrupts = Interrupts::watch()?;
    let at_it = Arc::clone(&steps);
    let working = blocking("the catalog", move || {
        let done = work(&at_it);
        at_it.end(done.is_ok());
        done
    });
    let mut working = std::pin::pin!(working);
    loop {
        tokio::select! {
            done = &mut working => return done?.map_err(|error| told(&error)),
            () = interrupts.next() => steps.cancelled.store(true, Ordering::Release),
        }
    }
}

/// Steps of work in this process, shown like an operation's stages.
struct Steps {
    key: &'static str,
    cancelled: AtomicBool,
    shown: Mutex<(Stages, Option<(String, Instant)>)>,
}

impl Steps {
    fn new(key: &'static str, stages: Stages) -> Self {
        Self {
            key,
            cancelled: AtomicBool::new(false),
            shown: Mutex::new((stages, None)),
        }
    }

    fn tell(&self, state: StageState, next: Option<&str>, detail: Option<&str>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let (stages, step) = &mut *shown;
        if let Some((title, begun)) = &step {
            stages.show(&Stage {
                key: self.key.to_owned(),
                title: title.clone(),
                state,
                elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                detail: detail.map(str::to_owned),
            });
        }
        if state != StageState::Running {
            *step = next.map(|title| (title.to_owned(), Instant::now()));
        }
    }

    fn end(&self, is_ok: bool) {
        let state = if is_ok {
            StageState::Done
        } else {
            StageState::Failed
        };
        self.tell(state, None, None);
    }
}

impl Watch for Steps {
    fn step(&self, title: &str) {
        self.tell(StageState::Done, Some(title), None);
        self.tell(StageState::Running, None, None);
    }

    fn line(&self, text: &str) {
        self.tell(StageState::Running, None, Some(text));
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn the_json_is_the_documented_one() {
        let built = Built {
            folder: "./catalog".into(),
            images: vec!["debian-bookworm".into()],
            kernels: vec!["6.1".into()],
            size: 1,
        };
        assert_documented("built", &serde_json::to_value(built).unwrap());
        let published = Published {
            folder: "/srv".into(),
            public_key: "RW".into(),
            images: 1,
            kernels: 1,
            size: 1,
        };
        assert_documented("published", &serde_json::to_value(published).unwrap());
    }
}
