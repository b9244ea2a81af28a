//! `vm prune`: every VM that does not run, after a question.

use banger_api::Vm;
use banger_core::{ByteSize, ErrorCode};

use super::lifecycle::each;
use super::show::table;
use super::{CommandResult, Context, unpulled};
use crate::cli::{PruneArgs, VmRefs};
use crate::error::CommandError;
use crate::start::Needs;

/// `vm prune`.
pub(crate) async fn prune(context: &Context<'_>, args: &PruneArgs) -> CommandResult {
    let asks = !args.force;
    if asks && !rustix::termios::isatty(rustix::stdio::stdin()) {
        let what = "there is no terminal to confirm on";
        let error = CommandError::new(ErrorCode::InvalidArgument, what);
        return Err(error.hint("-f deletes every VM that does not run without a question"));
    }
    let client = context.client(Needs::Helper).await?;
    let vms = client.vms().await?.vms;
    let idle: Vec<&Vm> = vms.iter().filter(|vm| does_not_run(&vm.phase)).collect();
    if idle.is_empty() {
        let nothing: [(); 0] = [];
        context
            .ui
            .result(&nothing, |_| "no VM that does not run".to_owned());
        return Ok(0);
    }
    let names: Vec<String> = idle.iter().map(|vm| vm.name.clone()).collect();
    let held = unpulled::sentences(&client, &names).await;
    context.ui.warnings(&held);
    if asks && !context.ui.confirm(&question(&idle)).map_err(unasked)? {
        return Err(CommandError::new(
            ErrorCode::Cancelled,
            "nothing was deleted",
        ));
    }
    // By name as it was listed; one that was started meanwhile is left alone.
    let refs = VmRefs { vms: names };
    let begin = async |name: &str| {
        let id = idle.iter().find(|vm| vm.name == name).map(|vm| &vm.id);
        client
            .delete_stopped_vm(id.map_or(name, String::as_str))
            .await
    };
    each(context, &client, &refs, "deleted", begin).await
}

fn does_not_run(phase: &str) -> bool {
    matches!(phase, "stopped" | "failed")
}

fn question(vms: &[&Vm]) -> String {
    let row = |vm: &&Vm| {
        vec![
            vm.name.clone(),
            vm.phase.clone(),
            vm.image.clone(),
            ByteSize(vm.disk_size).to_string(),
            vm.created_at.clone(),
        ]
    };
    let header = ["NAME", "PHASE", "IMAGE", "DISK", "CREATED"];
    let rows = table(&header, vms.iter().map(row).collect());
    format!("{rows}\nDelete these with all that is in them?")
}

fn unasked(error: std::io::Error) -> CommandError {
    CommandError::because(ErrorCode::Internal, "the question was not answered", &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_still_for_good_is_pruned() {
        for phase in ["stopped", "failed"] {
            assert!(does_not_run(phase), "{phase}");
        }
        for phase in [
            "provisioning",
            "starting",
            "running",
            "paused",
            "stopping",
            "deleting",
        ] {
            assert!(!does_not_run(phase), "{phase}");
        }
    }
}
