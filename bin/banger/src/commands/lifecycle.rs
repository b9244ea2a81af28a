//! `vm stop`, `vm start`, `vm delete`: several at once, each result told.

use banger_api::{Operation, Readiness, StopVmRequest};
use banger_client::{Client, ClientError};
use futures_util::future::join_all;
use serde::Serialize;

use super::{CommandResult, Context};
use crate::cli::{StartArgs, StopArgs, VmRefs};
use crate::error::CommandError;
use crate::interrupt::Interrupts;
use crate::operation::{OnInterrupt, follow};
use crate::start::Needs;
use crate::ui::{Output, Ui};

/// What became of one VM.
#[derive(Debug, Serialize)]
struct Outcome {
    vm: String,
    ok: bool,
    error: Option<banger_api::ApiError>,
}

/// `vm stop`.
pub(crate) async fn stop(context: &Context<'_>, args: StopArgs) -> CommandResult {
    let client = context.client(Needs::Helper).await?;
    let request = StopVmRequest {
        grace_s: args.grace,
    };
    let begin = async |vm: &str| client.stop_vm(vm, &request).await;
    each(context, &client, &args.vms, "stopped", begin).await
}

/// `vm start`.
pub(crate) async fn start(context: &Context<'_>, args: StartArgs) -> CommandResult {
    let client = context.client(Needs::Helper).await?;
    let wait = args.wait.map_or(Readiness::Ready, Readiness::from);
    let begin = async |vm: &str| client.start_vm(vm, wait, args.timeout).await;
    each(context, &client, &args.vms, "started", begin).await
}

/// `vm delete`.
pub(crate) async fn delete(context: &Context<'_>, args: VmRefs) -> CommandResult {
    let client = context.client(Needs::Helper).await?;
    let begin = async |vm: &str| client.delete_vm(vm).await;
    each(context, &client, &args, "deleted", begin).await
}

/// Begins for each VM, follows all to their ends, and tells each. One VM shows its stages.
async fn each(
    context: &Context<'_>,
    client: &Client,
    vms: &VmRefs,
    done: &str,
    begin: impl AsyncFn(&str) -> Result<Operation, ClientError>,
) -> CommandResult {
    let quiet = Ui::new(Output::Json);
    let ui = if vms.vms.len() == 1 {
        context.ui
    } else {
        &quiet
    };
    let one = async |vm: &str| -> Result<(), CommandError> {
        let mut interrupts = Interrupts::watch()?;
        let operation = begin(vm).await?;
        follow(ui, client, &operation, &mut interrupts, OnInterrupt::Leave)
            .await
            .map(drop)
    };
    let results = join_all(vms.vms.iter().map(|vm| one(vm))).await;
    if let (1, Some(Err(error))) = (results.len(), results.first()) {
        return Err(error.clone());
    }
    let failed = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .map(|e| e.0.code)
        .next();
    let outcomes: Vec<Outcome> = vms
        .vms
        .iter()
        .zip(results)
        .map(|(vm, result)| Outcome {
            vm: vm.clone(),
            ok: result.is_ok(),
            error: result.err().map(|e| e.0),
        })
        .collect();
    context.ui.result(&outcomes, |outcomes| {
        let line = |outcome: &Outcome| match &outcome.error {
            None => format!("{} {done}", outcome.vm),
            Some(error) => format!(
                "{}: {} [{}]",
                outcome.vm,
                error.message,
                error.code.as_str()
            ),
        };
        outcomes.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(failed.map_or(0, |code| code.exit_code() as u8))
}
