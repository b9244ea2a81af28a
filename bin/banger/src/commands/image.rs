//! `image list`, `image show`, `image build`.

use banger_api::{BuildImageRequest, Image};
use banger_core::{ByteSize, ImageName};

use super::show::table;
use super::{CommandResult, Context};
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
            let state = if image.stale { "older recipe" } else { "" }.to_owned();
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
            ("rootfs", image.rootfs.clone()),
            (
                "work seed",
                image.work_seed.clone().unwrap_or_else(|| "-".into()),
            ),
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

/// `image build`.
pub(crate) async fn build(
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
