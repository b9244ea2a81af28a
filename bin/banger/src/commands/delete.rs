//! `image delete`, `kernel delete`: several at once, each result told.

use banger_api::{ApiError, Deleted};
use banger_client::ClientError;
use banger_core::{ByteSize, ImageName, KernelName};
use serde::Serialize;

use super::{CommandResult, Context, failed_line};
use crate::error::CommandError;
use crate::start::Needs;

/// What became of one.
#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    ok: bool,
    /// Bytes.
    freed: u64,
    error: Option<ApiError>,
}

/// `image delete`.
pub(crate) async fn images(context: &Context<'_>, names: &[ImageName]) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let names = names.iter().map(ImageName::as_str);
    each(context, names, async |name| client.delete_image(name).await).await
}

/// `kernel delete`.
pub(crate) async fn kernels(context: &Context<'_>, names: &[KernelName]) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let names = names.iter().map(KernelName::as_str);
    each(context, names, async |name| {
        client.delete_kernel(name).await
    })
    .await
}

async fn each<'a>(
    context: &Context<'_>,
    names: impl Iterator<Item = &'a str>,
    delete: impl AsyncFn(&str) -> Result<Deleted, ClientError>,
) -> CommandResult {
    let names: std::collections::BTreeSet<&str> = names.collect();
    let (mut outcomes, mut code) = (vec![], 0);
    for name in &names {
        let error = match delete(name).await {
            Ok(deleted) => {
                outcomes.push(Outcome {
                    name: deleted.name,
                    ok: true,
                    freed: deleted.freed,
                    error: None,
                });
                continue;
            }
            Err(error) => CommandError::from(error),
        };
        if names.len() == 1 {
            return Err(error);
        }
        if code == 0 {
            code = error.0.code.exit_code() as u8;
        }
        outcomes.push(Outcome {
            name: (*name).to_owned(),
            ok: false,
            freed: 0,
            error: Some(error.0),
        });
    }
    context.ui.result(&outcomes, |outcomes| {
        let line = |outcome: &Outcome| match &outcome.error {
            None => format!("{} deleted, {} free", outcome.name, ByteSize(outcome.freed)),
            Some(error) => failed_line(&outcome.name, error),
        };
        outcomes.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(code)
}
