//! `vm run` and `vm create`.

use banger_api::{CreateVmRequest, Operation, Readiness, SpecLine};
use banger_client::Client;
use banger_core::{ByteSize, ErrorCode, SpecOrigin};
use banger_guest_proto::ExecRequest;

use super::{CommandResult, Context, exec};
use crate::cli::{CreateArgs, RunArgs, VmFlags, WaitFor};
use crate::error::CommandError;
use crate::operation::{OnInterrupt, follow};
use crate::start::Needs;

/// The exit code of a command that Ctrl-C ended before it began.
const INTERRUPTED: u8 = 130;

impl From<WaitFor> for Readiness {
    fn from(wait: WaitFor) -> Self {
        match wait {
            WaitFor::Reachable => Self::Reachable,
            WaitFor::Ready => Self::Ready,
        }
    }
}

fn request(flags: VmFlags) -> CreateVmRequest {
    CreateVmRequest {
        name: flags.name,
        image: flags.image,
        kernel: flags.kernel,
        vcpu: flags.vcpu,
        memory_mib: flags.memory,
        disk_size: flags.disk_size,
        nat: (flags.nat || flags.no_nat).then_some(flags.nat),
        wait: flags.wait.map(Readiness::from),
        timeout_s: flags.timeout,
        ..CreateVmRequest::default()
    }
}

fn spec_line(spec: &SpecLine) -> String {
    let origin = match spec.origin {
        SpecOrigin::Flag => "as asked",
        SpecOrigin::Config => "from the configuration",
        SpecOrigin::Host => "host-derived",
        SpecOrigin::Floor => "built-in floor",
    };
    let disk = ByteSize(spec.disk_size.0);
    format!(
        "spec: {} vCPU · {} · {disk} disk ({origin})",
        spec.vcpu, spec.memory_mib
    )
}

async fn begin(
    context: &Context<'_>,
    client: &Client,
    request: &CreateVmRequest,
) -> Result<Operation, CommandError> {
    let operation = client.create_vm(request).await?;
    if let Some(spec) = &operation.spec {
        context
            .ui
            .note(&format!("{} · {}", operation.subject, spec_line(spec)));
    }
    Ok(operation)
}

/// `vm create`.
pub(crate) async fn create(context: &Context<'_>, args: CreateArgs) -> CommandResult {
    let request = CreateVmRequest {
        no_start: args.no_start,
        ..request(args.vm)
    };
    let client = context.client(Needs::Helper).await?;
    let operation = begin(context, &client, &request).await?;
    let operation = follow(context.ui, &client, &operation, OnInterrupt::Cancel).await?;
    let vm = client
        .vm(operation.vm_id.as_deref().unwrap_or(&operation.subject))
        .await?;
    context.ui.result(&vm, |vm| {
        format!(
            "{} is {} at {} ({})",
            vm.name, vm.phase, vm.address, vm.dns_name
        )
    });
    Ok(0)
}

/// `vm run`.
pub(crate) async fn run(context: &Context<'_>, args: RunArgs) -> CommandResult {
    let is_shell = args.command.is_empty() && !args.detach;
    let default_wait = if args.command.is_empty() {
        Readiness::Ready
    } else {
        Readiness::Reachable
    };
    let mut request = CreateVmRequest {
        ephemeral: args.rm,
        ..request(args.vm)
    };
    request.wait.get_or_insert(default_wait);
    if is_shell && !rustix::termios::isatty(rustix::stdio::stdin()) {
        let error = CommandError::new(
            ErrorCode::InvalidArgument,
            "there is no terminal for a shell",
        );
        return Err(error.hint("give a command after `--`, or -d to leave the VM running"));
    }
    let client = context.client(Needs::Helper).await?;
    let operation = begin(context, &client, &request).await?;
    let name = operation.subject.clone();
    let vm = operation.vm_id.clone().unwrap_or_else(|| name.clone());
    if let Err(error) = follow(context.ui, &client, &operation, OnInterrupt::Cancel).await {
        if error.0.code == ErrorCode::Cancelled {
            return Ok(INTERRUPTED);
        }
        let kept =
            format!("the VM `{name}` is kept: `banger vm show {name}`, `banger vm logs {name}`");
        return Err(error.hint(kept));
    }
    if args.detach {
        let shown = client.vm(&vm).await?;
        context.ui.result(&shown, |vm| {
            format!("{name} runs at {}\n  shell  banger vm exec -it {name} -- bash\n  ssh    banger vm ssh {name}\n  stop   banger vm stop {name}", vm.address)
        });
        return Ok(0);
    }
    let tty = is_shell;
    let request = ExecRequest::new(args.command);
    let code = exec::in_guest(&client, &vm, request, tty).await;
    if args.rm {
        let deleted = client.delete_vm(&vm).await?;
        finish_quietly(&client, &deleted).await?;
    } else if is_shell {
        context.ui.note(&format!(
            "{name} still runs: `banger vm ssh {name}` goes back, `banger vm delete {name}` removes it"
        ));
    }
    code
}

/// Follows an operation of milliseconds without showing its stages.
async fn finish_quietly(client: &Client, operation: &Operation) -> Result<(), CommandError> {
    let quiet = crate::ui::Ui::new(crate::ui::Output::Json);
    follow(&quiet, client, operation, OnInterrupt::Leave)
        .await
        .map(drop)
}
