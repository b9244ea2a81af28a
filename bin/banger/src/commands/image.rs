//! `image list`, `image show`, `image pull`, `image register`, `image promote`, `image build`.

use std::path::PathBuf;

use banger_api::{
    BuildImageRequest, Image, Operation, PullFromCatalogRequest, PullImageRequest,
    RegisterImageRequest,
};
use banger_client::Client;
use banger_core::{ByteSize, ErrorCode, ImageName, ImageRef};

use super::show::table;
use super::{CommandResult, Context};
use crate::cli::{ImageArg, PullArgs, RegisterArgs};
use crate::error::CommandError;
use crate::interrupt::Interrupts;
use crate::operation::{OnInterrupt, follow};
use crate::start::Needs;

/// `image list`.
pub(crate) async fn list(context: &Context<'_>) -> CommandResult {
    let images = context.client(Needs::Daemon).await?.images().await?;
    context.ui.result(&images, |images| {
        if images.images.is_empty() {
            return "no images; `banger image build` makes the default one".to_owned();
        }
        let row = |image: &Image| {
            let size = format!("{} of {}", ByteSize(image.disk_usage), ByteSize(image.size));
            let digest = image.digest.get(..12).unwrap_or_default().to_owned();
            let state = match (image.stale, &image.changed) {
                (_, Some(_)) => "file changed",
                (true, None) => "older recipe",
                (false, None) => "",
            }
            .to_owned();
            vec![
                image.name.clone(),
                digest,
                size,
                image.created_at.clone(),
                state,
            ]
        };
        table(
            &["NAME", "DIGEST", "SIZE", "CREATED", ""],
            images.images.iter().map(row).collect(),
        )
    });
    Ok(0)
}

/// `image show`.
pub(crate) async fn show(context: &Context<'_>, name: &str) -> CommandResult {
    let image = context.client(Needs::Daemon).await?.image(name).await?;
    context.ui.result(&image, |image| {
        let rows = [
            ("name", image.name.clone()),
            ("digest", image.digest.clone()),
            ("origin", image.origin.clone()),
            ("from", from_of(image)),
            (
                "catalog",
                image.catalog.clone().unwrap_or_else(|| "-".into()),
            ),
            ("command", command_of(image)),
            ("rootfs", image.rootfs.clone()),
            (
                "work seed",
                image.work_seed.clone().unwrap_or_else(|| "-".into()),
            ),
            ("seed state", seed_of(image)),
            (
                "kernel",
                image
                    .kernel
                    .clone()
                    .unwrap_or_else(|| "the default one".into()),
            ),
            (
                "size",
                format!(
                    "{} ({} used)",
                    ByteSize(image.size),
                    ByteSize(image.disk_usage)
                ),
            ),
            (
                "recipe",
                image
                    .recipe_fingerprint
                    .clone()
                    .unwrap_or_else(|| "-".into()),
            ),
            ("created", image.created_at.clone()),
            ("contents", image.contents.join(", ")),
        ];
        rows.iter()
            .map(|(key, value)| format!("{key:<10} {value}\n"))
            .collect()
    });
    Ok(0)
}

fn seed_of(image: &Image) -> String {
    let state = &image.work_seed_state;
    match &image.work_seed_origin {
        Some(origin) => format!("{state} (format {} of {})", origin.format, origin.made_from),
        None if state == "missing" => format!("{state} (made after the next create)"),
        None => state.clone(),
    }
}

/// `image build` of a recipe.
pub(super) async fn build_recipe(
    context: &Context<'_>,
    name: Option<ImageName>,
    force: bool,
) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let mut interrupts = Interrupts::watch()?;
    let operation = client
        .build_image(&BuildImageRequest { name, force })
        .await?;
    let operation = follow(
        context.ui,
        &client,
        &operation,
        &mut interrupts,
        OnInterrupt::Cancel,
    )
    .await?;
    let image = client.image(&operation.subject).await?;
    context.ui.result(&image, |image| {
        format!(
            "{} {}",
            image.name,
            image.digest.get(..12).unwrap_or_default()
        )
    });
    Ok(0)
}

/// Where it was pulled from, or what it was built on.
fn from_of(image: &Image) -> String {
    let from = image.reference.as_ref().or(image.built_on.as_ref());
    from.cloned().unwrap_or_else(|| "-".into())
}

/// What an image would run as a container.
fn command_of(image: &Image) -> String {
    let Some(config) = &image.config else {
        return "-".to_owned();
    };
    let words: Vec<&str> = config
        .entrypoint
        .iter()
        .chain(&config.cmd)
        .map(String::as_str)
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(" ")
    }
}

/// `image pull`.
pub(crate) async fn pull(context: &Context<'_>, args: PullArgs) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let mut interrupts = Interrupts::watch()?;
    let reference = match args.image {
        ImageArg::Reference(reference) => reference,
        ImageArg::Name(_) if args.plain_http => {
            let what = "--plain-http is for registries; the catalog's place is in config.toml";
            return Err(CommandError::new(ErrorCode::InvalidArgument, what));
        }
        ImageArg::Name(name) => {
            let request = PullFromCatalogRequest {
                name: args.name,
                kernel: args.kernel_ref,
            };
            let operation = client.pull_from_catalog(name.as_str(), &request).await?;
            let cancel = OnInterrupt::Cancel;
            let operation =
                follow(context.ui, &client, &operation, &mut interrupts, cancel).await?;
            let image = client.image(&operation.subject).await?;
            return pulled(context, &image);
        }
    };
    let request = PullImageRequest {
        reference,
        name: args.name,
        kernel: args.kernel_ref,
        plain_http: args.plain_http,
    };
    let image = follow_pull(context, &client, request, &mut interrupts).await?;
    pulled(context, &image)
}

/// What came, and how to use it.
fn pulled(context: &Context<'_>, image: &Image) -> CommandResult {
    context.ui.result(image, |image| {
        let digest = image.digest.get(..12).unwrap_or_default();
        let notes = image.contents.join("; ");
        format!(
            "{} {digest} ({notes})\n  run it: banger vm run --image {}",
            image.name, image.name
        )
    });
    Ok(0)
}

async fn follow_pull(
    context: &Context<'_>,
    client: &Client,
    mut request: PullImageRequest,
    interrupts: &mut Interrupts,
) -> Result<Image, CommandError> {
    let current = std::env::current_dir().map_err(|error| {
        CommandError::because(ErrorCode::Internal, "the current directory is gone", &error)
    })?;
    request.reference = request.reference.absolute(&current);
    let operation = client.pull_image(&request).await?;
    let operation = follow(
        context.ui,
        client,
        &operation,
        interrupts,
        OnInterrupt::Cancel,
    )
    .await?;
    Ok(client.image(&operation.subject).await?)
}

/// The name of the image that `--image` means; one that is not there is pulled.
pub(crate) async fn name_of(
    context: &Context<'_>,
    client: &Client,
    image: Option<ImageArg>,
    interrupts: &mut Interrupts,
) -> Result<Option<ImageName>, CommandError> {
    let reference: ImageRef = match image {
        None => return Ok(None),
        Some(ImageArg::Name(name)) => return Ok(Some(name)),
        Some(ImageArg::Reference(reference)) => reference,
    };
    let known = client.images().await?.images;
    let text = reference.to_string();
    let name = match known
        .iter()
        .find(|image| image.reference.as_deref() == Some(&text))
    {
        Some(image) => image.name.clone(),
        None => {
            let request = PullImageRequest {
                reference,
                name: None,
                kernel: None,
                plain_http: false,
            };
            follow_pull(context, client, request, interrupts)
                .await?
                .name
        }
    };
    let name = name.parse().map_err(|error: banger_core::ParseNameError| {
        CommandError::new(ErrorCode::Internal, error.to_string())
    })?;
    Ok(Some(name))
}

/// `image register`.
pub(crate) async fn register(context: &Context<'_>, args: RegisterArgs) -> CommandResult {
    let packages = match &args.packages {
        None => vec![],
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                let what = format!("{} cannot be read", path.display());
                CommandError::because(ErrorCode::FileNotFound, what, &error)
            })?;
            text.lines().map(str::to_owned).collect()
        }
    };
    let request = RegisterImageRequest {
        name: args.name,
        rootfs: absolute(args.rootfs)?,
        work_seed: args.work_seed.map(absolute).transpose()?,
        kernel: args.kernel.map(absolute).transpose()?,
        initrd: args.initrd.map(absolute).transpose()?,
        modules: args.modules.map(absolute).transpose()?,
        kernel_ref: args.kernel_ref,
        packages,
    };
    let client = context.client(Needs::Daemon).await?;
    let mut interrupts = Interrupts::watch()?;
    let operation = client.register_image(&request).await?;
    finish(context, &client, operation, &mut interrupts).await
}

/// `image promote`.
pub(crate) async fn promote(context: &Context<'_>, name: &ImageName) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let mut interrupts = Interrupts::watch()?;
    let operation = client.promote_image(name.as_str()).await?;
    finish(context, &client, operation, &mut interrupts).await
}

async fn finish(
    context: &Context<'_>,
    client: &Client,
    operation: Operation,
    interrupts: &mut Interrupts,
) -> CommandResult {
    let cancel = OnInterrupt::Cancel;
    let operation = follow(context.ui, client, &operation, interrupts, cancel).await?;
    let image = client.image(&operation.subject).await?;
    context.ui.result(&image, |image| {
        let digest = image.digest.get(..12).unwrap_or_default();
        format!(
            "{} {digest} ({} at {})",
            image.name, image.origin, image.rootfs
        )
    });
    Ok(0)
}

pub(super) fn absolute(path: PathBuf) -> Result<String, CommandError> {
    let absolute = std::path::absolute(&path).ok();
    let text = absolute.and_then(|path| path.into_os_string().into_string().ok());
    text.ok_or_else(|| {
        let what = format!("{} is no path that can be written down", path.display());
        CommandError::new(ErrorCode::InvalidArgument, what)
    })
}
