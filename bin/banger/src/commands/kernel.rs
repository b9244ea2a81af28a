//! `kernel list`, `kernel show`, `kernel pull`, `kernel import`.

use banger_api::{ImportKernelRequest, Kernel, KernelSource};
use banger_core::{ErrorCode, KernelName};

use super::show::table;
use super::{CommandResult, Context};
use crate::cli::ImportArgs;
use crate::error::CommandError;
use crate::interrupt::Interrupts;
use crate::operation::{OnInterrupt, follow};
use crate::start::Needs;

/// `kernel list`.
pub(crate) async fn list(context: &Context<'_>) -> CommandResult {
    let kernels = context.client(Needs::Daemon).await?.kernels().await?;
    context.ui.result(&kernels, |kernels| {
        if kernels.kernels.is_empty() {
            return "no kernels; `banger kernel import` fetches Debian's cloud kernel".to_owned();
        }
        let row = |kernel: &Kernel| {
            let default = if kernel.default { "default" } else { "" }.to_owned();
            vec![
                kernel.name.clone(),
                kernel.release.clone(),
                kernel.source.clone(),
                default,
            ]
        };
        table(
            &["NAME", "RELEASE", "FROM", ""],
            kernels.kernels.iter().map(row).collect(),
        )
    });
    Ok(0)
}

/// `kernel show`.
pub(crate) async fn show(context: &Context<'_>, name: &str) -> CommandResult {
    let kernel = context.client(Needs::Daemon).await?.kernel(name).await?;
    context.ui.result(&kernel, |kernel| {
        let rows = [
            ("name", kernel.name.clone()),
            ("release", kernel.release.clone()),
            ("digest", kernel.digest.clone()),
            ("from", kernel.source.clone()),
            ("vmlinux", kernel.vmlinux.clone()),
            (
                "modules",
                kernel.modules.clone().unwrap_or_else(|| "-".into()),
            ),
            (
                "default",
                if kernel.default { "yes" } else { "no" }.to_owned(),
            ),
            ("created", kernel.created_at.clone()),
        ];
        rows.iter()
            .map(|(key, value)| format!("{key:<8} {value}\n"))
            .collect()
    });
    Ok(0)
}

/// `kernel pull`.
pub(crate) async fn pull(context: &Context<'_>, name: &KernelName) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let mut interrupts = Interrupts::watch()?;
    let operation = client.pull_kernel(name.as_str()).await?;
    let cancel = OnInterrupt::Cancel;
    follow(context.ui, &client, &operation, &mut interrupts, cancel).await?;
    let kernel = client.kernel(name.as_str()).await?;
    context.ui.result(&kernel, |kernel| {
        format!("{} ({}, {})", kernel.name, kernel.release, kernel.source)
    });
    Ok(0)
}

/// `kernel import`.
pub(crate) async fn import(context: &Context<'_>, args: ImportArgs) -> CommandResult {
    let absolute = |path: std::path::PathBuf| {
        std::path::absolute(&path)
            .map(|path| path.display().to_string())
            .map_err(|error| {
                CommandError::because(
                    ErrorCode::InvalidArgument,
                    format!("{} is no path", path.display()),
                    &error,
                )
            })
    };
    let source = match (args.file, args.host) {
        (Some(file), _) => KernelSource::File {
            path: absolute(file)?,
            modules: args.modules.map(absolute).transpose()?,
        },
        (None, true) => KernelSource::Host {},
        (None, false) => KernelSource::Package {
            package: args.package,
        },
    };
    let client = context.client(Needs::Daemon).await?;
    let mut interrupts = Interrupts::watch()?;
    let operation = client
        .import_kernel(&ImportKernelRequest {
            name: args.name,
            source,
        })
        .await?;
    follow(
        context.ui,
        &client,
        &operation,
        &mut interrupts,
        OnInterrupt::Cancel,
    )
    .await?;
    list(context).await
}
