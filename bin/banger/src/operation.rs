//! Following an operation to its end.

use banger_api::{Operation, OperationEvent, OperationState, Stage, StageState};
use banger_client::Client;
use banger_core::ErrorCode;

use crate::error::CommandError;
use crate::followed::Followed;
use crate::interrupt::Interrupts;
use crate::ui::Ui;

/// What an interrupt does to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// It is cancelled.
    Cancel,
    /// It goes on; the command ends.
    Leave,
}

/// Follows an operation, showing its stages. The first interrupt does what `on_interrupt` says; a
/// second one ends the process at once. One that came too late to cancel is still seen by `interrupts`. When the
/// daemon dies, it is started again, and the operation is followed to its end there.
pub(crate) async fn follow(
    ui: &Ui,
    client: &Client,
    operation: &Operation,
    interrupts: &mut Interrupts,
    on_interrupt: OnInterrupt,
) -> Result<Operation, CommandError> {
    let nothing = async |_: &Stage| Ok(());
    follow_and(ui, client, operation, interrupts, on_interrupt, nothing).await
}

/// The same; `each` is called when it waits for somebody to look into a VM, and nothing is shown meanwhile.
pub(crate) async fn follow_and(
    ui: &Ui,
    client: &Client,
    operation: &Operation,
    interrupts: &mut Interrupts,
    on_interrupt: OnInterrupt,
    mut each: impl AsyncFnMut(&Stage) -> Result<(), CommandError>,
) -> Result<Operation, CommandError> {
    let mut stages = ui.stages();
    let mut followed = Followed::new(client, &operation.id).await?;
    let mut told = Told::default();
    let mut interrupted = false;
    loop {
        let event = tokio::select! {
            event = followed.next() => event?,
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
                followed.cancel().await?;
                continue;
            }
        };
        let now = match event {
            OperationEvent::Snapshot { operation } => operation.stages,
            OperationEvent::Stage { stage } => vec![stage],
            OperationEvent::Finished { operation } => {
                stages.clear();
                return ended(operation);
            }
        };
        for stage in now.iter().filter(|stage| told.is_new(stage)) {
            stages.show(stage);
            if wants_somebody(stage) {
                stages.clear();
                each(stage).await?;
            }
        }
    }
}

/// Whether a build waits for somebody; the stage's detail is the name of its builder.
fn wants_somebody(stage: &Stage) -> bool {
    ["enter", "enter-failed"].contains(&stage.key.as_str())
        && stage.state == StageState::Running
        && stage.detail.is_some()
}

/// Stages whose ends were shown: the next daemon tells them again.
#[derive(Debug, Default)]
struct Told(Vec<(String, u64)>);

impl Told {
    /// Whether it is to be shown; what has ended is shown once.
    fn is_new(&mut self, stage: &Stage) -> bool {
        if stage.state == StageState::Running {
            return true;
        }
        let end = (stage.key.clone(), stage.elapsed_ms);
        let is_new = !self.0.contains(&end);
        if is_new {
            self.0.push(end);
        }
        is_new
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
