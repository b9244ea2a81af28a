//! `bench create`: how long it takes until a VM is made, and until ssh works.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_api::{CreateVmRequest, Readiness};
use banger_client::Client;
use banger_core::ErrorCode;
use serde::Serialize;

use super::{CommandResult, Context, run};
use crate::cli::BenchCreateArgs;
use crate::error::CommandError;
use crate::interrupt::Interrupts;
use crate::operation::{OnInterrupt, follow};
use crate::start::Needs;
use crate::ui::{Output, Ui};

/// How long ssh is tried after the VM is ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of all runs.
#[derive(Debug, PartialEq, Serialize)]
struct Bench {
    image: String,
    vmm: String,
    storage: String,
    runs: Vec<Run>,
    median: Run,
}

/// One run, each time from the start of its create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Run {
    create_ms: u64,
    ssh_ready_ms: u64,
}

/// `bench create`.
pub(crate) async fn create(context: &Context<'_>, args: BenchCreateArgs) -> CommandResult {
    let client = context.client(Needs::Helper).await?;
    let request = CreateVmRequest {
        image: args.image,
        vmm: args.vmm,
        wait: Some(Readiness::Ready),
        ..CreateVmRequest::default()
    };
    let mut bench: Option<Bench> = None;
    for number in 1..=args.runs.get() {
        let (run, vm) = measure(&client, &request).await?;
        context.ui.note(&format!(
            "run {number} of {}: created after {} ms, ssh after {} ms",
            args.runs, run.create_ms, run.ssh_ready_ms
        ));
        let bench = bench.get_or_insert_with(|| Bench {
            image: vm.image.clone(),
            vmm: vm.vmm.clone(),
            storage: vm.storage.clone(),
            runs: vec![],
            median: run.clone(),
        });
        bench.runs.push(run);
    }
    if let Some(mut bench) = bench {
        bench.median = median(&bench.runs);
        context.ui.result(&bench, |bench| {
            let Run {
                create_ms,
                ssh_ready_ms,
            } = bench.median;
            let count = bench.runs.len();
            format!("median of {count}: create {create_ms} ms, ssh ready {ssh_ready_ms} ms")
        });
    }
    Ok(0)
}

/// Makes a VM, logs in, and deletes it, whatever came of it.
async fn measure(
    client: &Client,
    request: &CreateVmRequest,
) -> Result<(Run, banger_api::Vm), CommandError> {
    let quiet = Ui::new(Output::Json);
    let mut interrupts = Interrupts::watch()?;
    let started = Instant::now();
    let operation = client.create_vm(request).await?;
    let vm = operation.vm_id.clone().unwrap_or(operation.subject.clone());
    let cancel = OnInterrupt::Cancel;
    let made = follow(&quiet, client, &operation, &mut interrupts, cancel).await;
    let measured = match made {
        Ok(_) => {
            let create_ms = ms(started);
            let logged_in = until_ssh(&vm).await;
            let ssh_ready_ms = ms(started);
            let shown = client.vm(&vm).await;
            logged_in.and_then(|()| {
                let run = Run {
                    create_ms,
                    ssh_ready_ms,
                };
                Ok((run, shown?))
            })
        }
        Err(error) => Err(error),
    };
    if client.vm(&vm).await.is_ok() {
        run::delete(client, &vm).await?;
    }
    measured
}

/// As a user would: the same program, until it returns 0.
async fn until_ssh(vm: &str) -> Result<(), CommandError> {
    let program = std::env::current_exe()
        .map_err(|error| CommandError::internal("this program cannot find itself", &error))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (program, vm) = (program.clone(), vm.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            Command::new(program)
                .args(["vm", "ssh", &vm, "--", "true"])
                .stdin(Stdio::null())
                .output()
        });
        let told = match asked.await {
            Ok(Ok(output)) if output.status.success() => return Ok(()),
            Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            let what = format!("ssh did not work within {PATIENCE:?}: {told}");
            return Err(CommandError::new(ErrorCode::Timeout, what));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The middle one of each, the lower of two.
fn median(runs: &[Run]) -> Run {
    let middle = |of: fn(&Run) -> u64| {
        let mut all: Vec<u64> = runs.iter().map(of).collect();
        all.sort_unstable();
        let at = all.len().saturating_sub(1) / 2;
        all.get(at).copied().unwrap_or(0)
    };
    Run {
        create_ms: middle(|run| run.create_ms),
        ssh_ready_ms: middle(|run| run.ssh_ready_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_counts_and_the_json_is_a_contract() {
        let run = |create_ms, ssh_ready_ms| Run {
            create_ms,
            ssh_ready_ms,
        };
        let runs = vec![run(900, 950), run(300, 2000), run(600, 700)];
        let bench = Bench {
            image: "debian-bookworm".into(),
            vmm: "qemu".into(),
            storage: "qcow2".into(),
            median: median(&runs),
            runs,
        };
        assert_eq!(bench.median, run(600, 950));
        assert_eq!(median(&[run(1, 1), run(2, 2)]), run(1, 1));
        crate::documented::assert_documented("figures", &serde_json::to_value(&bench).unwrap());
        insta::assert_json_snapshot!(bench);
    }
}
