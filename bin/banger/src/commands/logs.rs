//! `vm logs`.

use banger_core::ErrorCode;
use http_body_util::BodyExt;

use super::{CommandResult, Context};
use crate::cli::LogsArgs;
use crate::error::CommandError;
use crate::start::Needs;

/// `vm logs`.
pub(crate) async fn logs(context: &Context<'_>, args: &LogsArgs) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let mut body = client.logs(&args.vm, args.follow).await?;
    while let Some(frame) = body.frame().await {
        let broken = |error: &dyn std::error::Error| {
            CommandError::because(ErrorCode::DaemonUnavailable, "the log was cut off", error)
        };
        if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data()
            && let Err(error) = context.ui.bytes(&data)
        {
            // Whoever read it has had enough.
            return if error.kind() == std::io::ErrorKind::BrokenPipe {
                Ok(0)
            } else {
                Err(broken(&error))
            };
        }
    }
    Ok(0)
}
