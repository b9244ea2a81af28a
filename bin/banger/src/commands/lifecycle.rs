//! `vm stop`, `start`, `restart`, `kill`, `set`, `delete`: several at once, each result told.

use banger_api::{
    KillVmRequest, Operation, Readiness, RestartVmRequest, SetVmRequest, StopVmRequest,
};
use banger_client::{Client, ClientError};
use futures_util::future::join_all;
use serde::Serialize;

use super::{CommandResult, Context, failed_line, unpulled};
use crate::cli::{DeleteArgs, KillArgs, RestartArgs, SetArgs, StartArgs, StopArgs, VmRefs};
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
    /// Whether it had to be ended by force, though its guest was asked.
    forced: bool,
    error: Option<banger_api::ApiError>,
}

/// `vm stop`.
pub(crate) async fn stop(context: &Context<'_>, args: StopArgs) -> CommandResult {
    let client = context.client(Needs::Helper).await?;
    let request = StopVmRequest {
        grace_s: args.grace,
    };
    let begin = async |vm: &str| client.stop_vm(vm, &request).await;
    let vms = match args.all {
        true => going(&client).await?,
        false => args.vms,
    };
    if vms.is_empty() {
        context.ui.note("no VM runs");
    }
    let vms = VmRefs { vms };
    let code = each(context, &client, &vms, "stopped", begin).await?;
    for sentence in unpulled::sentences(&client, &vms.vms).await {
        context.ui.note(&format!("note: {sentence}"));
    }
    Ok(code)
}

/// The VMs that a stop would change.
async fn going(client: &Client) -> Result<Vec<String>, CommandError> {
    let list = client.vms().await?;
    let going = list.vms.into_iter().filter(banger_api::Vm::is_up);
    Ok(going.map(|vm| vm.name).collect())
}

/// `vm start`.
pub(crate) async fn start(context: &Context<'_>, args: StartArgs) -> CommandResult {
    let client = context.client(Needs::Helper).await?;
    let wait = args.wait.map_or(Readiness::Ready, Readiness::from);
    let begin = async |vm: &str| client.start_vm(vm, wait, args.timeout).await;
    let code = each(context, &client, &args.vms, "started", begin).await?;
    warn(context, &client, &args.vms).await;
    Ok(code)
}

/// Says what VMs that were started have to do without.
async fn warn(context: &Context<'_>, client: &Client, vms: &VmRefs) {
    let several = vms.vms.len() > 1;
    for name in &vms.vms {
        let Ok(vm) = client.vm(name).await else {
            continue;
        };
        if several {
            let named = |warning: &String| format!("{}: {warning}", vm.name);
            context
                .ui
                .warnings(&vm.warnings.iter().map(named).collect::<Vec<_>>());
        } else {
            context.ui.warnings(&vm.warnings);
        }
    }
}

/// `vm restart`.
pub(crate) async fn restart(context: &Context<'_>, args: RestartArgs) -> CommandResult {
    let client = context.client(Needs::Helper).await?;
    let request = RestartVmRequest {
        grace_s: args.grace,
        wait: args.wait.map(Readiness::from),
        timeout_s: args.timeout,
    };
    let begin = async |vm: &str| client.restart_vm(vm, &request).await;
    let code = each(context, &client, &args.vms, "restarted", begin).await?;
    warn(context, &client, &args.vms).await;
    Ok(code)
}

/// `vm kill`.
pub(crate) async fn kill(context: &Context<'_>, args: KillArgs) -> CommandResult {
    let client = context.client(Needs::Helper).await?;
    let request = KillVmRequest {
        signal: args.signal,
    };
    let begin = async |vm: &str| client.kill_vm(vm, &request).await;
    each(context, &client, &args.vms, "killed", begin).await
}

/// `vm set`.
pub(crate) async fn set(context: &Context<'_>, args: SetArgs) -> CommandResult {
    let client = context.client(Needs::Helper).await?;
    let request = SetVmRequest {
        vcpu: args.vcpu,
        memory_mib: args.memory,
        disk_size: args.disk_size,
        nat: (args.nat || args.no_nat).then_some(args.nat),
    };
    let begin = async |vm: &str| client.set_vm(vm, &request).await;
    each(context, &client, &args.vms, "changed", begin).await
}

/// `vm delete`.
pub(crate) async fn delete(context: &Context<'_>, args: DeleteArgs) -> CommandResult {
    let client = context.client(Needs::Helper).await?;
    if !args.force {
        let held = unpulled::sentences(&client, &args.vms.vms).await;
        if !held.is_empty() {
            unpulled::may_go(context, &held)?;
        }
    }
    let begin = async |vm: &str| client.delete_vm(vm).await;
    each(context, &client, &args.vms, "deleted", begin).await
}

/// Begins for each VM, follows all to their ends, and tells each. One VM shows its stages.
pub(super) async fn each(
    context: &Context<'_>,
    client: &Client,
    vms: &VmRefs,
    done: &str,
    begin: impl AsyncFn(&str) -> Result<Operation, ClientError>,
) -> CommandResult {
    let vms = without_repeats(&vms.vms);
    let quiet = Ui::new(Output::Json);
    let ui = if vms.len() == 1 { context.ui } else { &quiet };
    let one = async |vm: &str| -> Result<Operation, CommandError> {
        let mut interrupts = Interrupts::watch()?;
        let operation = begin(vm).await?;
        let leave = OnInterrupt::Leave;
        follow(ui, client, &operation, &mut interrupts, leave).await
    };
    let results = join_all(vms.iter().map(|vm| one(vm))).await;
    if let (1, Some(Err(error))) = (results.len(), results.first()) {
        return Err(error.clone());
    }
    let failed = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .map(|e| e.0.code)
        .next();
    let outcomes: Vec<Outcome> = vms
        .into_iter()
        .zip(results)
        .map(|(vm, result)| Outcome {
            vm: vm.to_owned(),
            ok: result.is_ok(),
            forced: result.as_ref().is_ok_and(Operation::was_forced),
            error: result.err().map(|e| e.0),
        })
        .collect();
    context.ui.result(&outcomes, |outcomes| {
        let line = |outcome| told(outcome, done);
        outcomes.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(failed.map_or(0, |code| code.exit_code() as u8))
}

/// A line for one of them.
fn told(outcome: &Outcome, done: &str) -> String {
    let vm = &outcome.vm;
    match &outcome.error {
        None if outcome.forced => {
            format!("{vm} {done}, by force: its guest did not shut down in time")
        }
        None => format!("{vm} {done}"),
        Some(error) => failed_line(vm, error),
    }
}

/// Each word once: naming a VM twice asks for nothing more.
fn without_repeats(vms: &[String]) -> Vec<&str> {
    let mut once: Vec<&str> = Vec::new();
    for vm in vms {
        if !once.contains(&vm.as_str()) {
            once.push(vm);
        }
    }
    once
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::{OperationKind, OperationState, Stage, StageState};

    #[test]
    fn a_stop_by_force_is_told_as_such() {
        let stopped = |state| {
            let stage = Stage {
                key: "shutdown".into(),
                title: "clean shutdown".into(),
                state,
                elapsed_ms: 3000,
                detail: None,
            };
            let operation = Operation {
                id: "0123456789ab".into(),
                kind: OperationKind::StopVm,
                subject: "demo".into(),
                vm_id: None,
                state: OperationState::Succeeded,
                stages: vec![stage],
                error: None,
                spec: None,
                warnings: vec![],
            };
            let outcome = Outcome {
                vm: "demo".into(),
                ok: true,
                forced: operation.was_forced(),
                error: None,
            };
            told(&outcome, "stopped")
        };
        assert_eq!(stopped(StageState::Done), "demo stopped");
        let forced = "demo stopped, by force: its guest did not shut down in time";
        assert_eq!(stopped(StageState::Failed), forced);
    }

    #[test]
    fn a_vm_that_is_named_twice_is_one() {
        let vms = ["b", "a", "b"].map(str::to_owned);
        assert_eq!(without_repeats(&vms), ["b", "a"]);
    }
}
