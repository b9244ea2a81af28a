//! Following an operation to its end.

use banger_api::{Operation, OperationEvent, OperationState, Stage};
use banger_client::{Client, ClientError};
use banger_core::ErrorCode;

use crate::error::CommandError;
use crate::interrupt::Interrupts;
use crate::ui::{Stages, Ui};

/// What an interrupt does to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// It is cancelled.
    Cancel,
    /// It goes on; the command ends.
    Leave,
}

/// Follows an operation, showing its stages. The first interrupt does what `on_interrupt` says; a
/// second one ends the process at once. One that came too late to cancel is still seen by `interrupts`.
pub(crate) async fn follow(
    ui: &Ui,
    client: &Client,
    operation: &Operation,
    interrupts: &mut Interrupts,
    on_interrupt: OnInterrupt,
) -> Result<Operation, CommandError> {
    let mut stages = ui.stages();
    let mut events = client.events(&operation.id).await?;
    let mut interrupted = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            () = interrupts.next() => {
                stages.clear();
                if interrupted {
                    return Err(CommandError::new(ErrorCode::Cancelled, "interrupted again; the clean-up goes on"));
                }
                interrupted = true;
                if on_interrupt == OnInterrupt::Leave {
                    return Err(CommandError::new(ErrorCode::Cancelled, "interrupted; the operation goes on"));
                }
                ui.note("cancelling; what was made is deleted");
                match client.cancel(&operation.id).await {
                    // Over already: how, the next event says.
                    Ok(_) | Err(ClientError::Api(_)) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        match event {
            Some(OperationEvent::Snapshot { operation }) => show(&mut stages, &operation.stages),
            Some(OperationEvent::Stage { stage }) => stages.show(&stage),
            Some(OperationEvent::Finished { operation }) => {
                stages.clear();
                return ended(operation);
            }
            None => {
                stages.clear();
                let what =
                    "the daemon went away in the middle; the operation goes on with the next one";
                return Err(CommandError::new(ErrorCode::DaemonUnavailable, what));
            }
        }
    }
}

fn show(stages: &mut Stages, all: &[Stage]) {
    for stage in all {
        stages.show(stage);
    }
}

fn ended(operation: Operation) -> Result<Operation, CommandError> {
    match operation.state {
        OperationState::Failed => Err(CommandError(operation.error.unwrap_or_else(|| {
            banger_api::ApiError::new(
                ErrorCode::Internal,
                "the operation failed without saying why",
            )
        }))),
        OperationState::Cancelled => Err(CommandError::new(ErrorCode::Cancelled, "cancelled")),
        OperationState::Running | OperationState::Succeeded => Ok(operation),
    }
}
