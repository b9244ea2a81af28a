//! `vm run` and `vm create`.

use banger_api::{CreateVmRequest, Image, Operation, Readiness, SpecLine};
use banger_client::Client;
use banger_core::{ErrorCode, ImageName, SpecOrigin, SpecOrigins};
use banger_guest_proto::{Environment, ExecRequest};
use tokio::sync::watch;

use super::checkout::{Checkout, Ready};
use super::{
    CommandResult, Context, INTERRUPTED, entrypoint, exec, image, unpulled, vm_environment,
    workspace,
};
use crate::cli::{CreateArgs, RunArgs, VmFlags, WaitFor};
use crate::error::CommandError;
use crate::interrupt::Interrupts;
use crate::operation::{OnInterrupt, follow};
use crate::start::Needs;

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
        kernel: flags.kernel,
        vcpu: flags.vcpu,
        memory_mib: flags.memory,
        disk_size: flags.disk_size,
        nat: (flags.nat || flags.no_nat).then_some(flags.nat),
        vmm: flags.vmm,
        wait: flags.wait.map(Readiness::from),
        timeout_s: flags.timeout,
        ..CreateVmRequest::default()
    }
}

/// What the VM gets, and why: once for all of it, or for each value.
fn spec_line(spec: &SpecLine) -> String {
    let word = |origin| match origin {
        SpecOrigin::Flag => "as asked",
        SpecOrigin::Config => "from the configuration",
        SpecOrigin::Host => "host-derived",
        SpecOrigin::Floor => "built-in floor",
    };
    let SpecOrigins {
        vcpu,
        memory_mib,
        disk_size,
    } = spec.origins;
    let values = [
        (format!("{} vCPU", spec.vcpu), vcpu),
        (spec.memory_mib.to_string(), memory_mib),
        (format!("{} disk", spec.disk_size), disk_size),
    ];
    let is_one = values.iter().all(|(_, origin)| *origin == vcpu);
    let shown = values.map(|(value, origin)| match is_one {
        true => value,
        false => format!("{value} ({})", word(origin)),
    });
    let line = format!("spec: {}", shown.join(" · "));
    match is_one {
        true => format!("{line} ({})", word(vcpu)),
        false => line,
    }
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
    let environment = vm_environment::asked_for(&args.env, args.no_start)?;
    let image = args.vm.image.clone();
    let mut request = CreateVmRequest {
        no_start: args.no_start,
        ..request(args.vm)
    };
    let client = context.client(Needs::Helper).await?;
    let mut interrupts = Interrupts::watch()?;
    request.image = image::name_of(context, &client, image, &mut interrupts).await?;
    let operation = begin(context, &client, &request).await?;
    let cancel = OnInterrupt::Cancel;
    let operation = match follow(context.ui, &client, &operation, &mut interrupts, cancel).await {
        Ok(operation) => operation,
        Err(error) => return Err(kept(&client, &operation, &environment, error).await),
    };
    context.ui.warnings(&operation.warnings);
    let name = &operation.subject;
    let vm = operation.vm_id.as_deref().unwrap_or(name);
    vm_environment::give(&client, vm, name, &environment, &mut interrupts).await?;
    let vm = client.vm(vm).await?;
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
    if args.no_start {
        let create_args = CreateArgs {
            vm: args.vm,
            no_start: true,
            env: args.env,
        };
        return create(context, create_args).await;
    }
    let runs_a_command = args.runs_a_command();
    let is_shell = !runs_a_command && !args.detach;
    // With -d there is neither a command nor a shell that they could be for.
    let (of_vm, env) = match args.detach {
        true => (vm_environment::asked_for(&args.env, false)?, vec![]),
        false => (Environment::default(), args.env.variables()?),
    };
    let default_wait = if runs_a_command {
        Readiness::Reachable
    } else {
        Readiness::Ready
    };
    let image = args.vm.image.clone();
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
    // Looked at before anything is made.
    let checkout = match args.path {
        Some(path) => {
            Some(Checkout::find(context, path, args.branch, args.from, args.readonly).await?)
        }
        None => None,
    };
    let client = context.client(Needs::Helper).await?;
    let mut interrupts = Interrupts::watch()?;
    request.image = match image::name_of(context, &client, image, &mut interrupts).await {
        Err(error) if error.0.code == ErrorCode::Cancelled => return Ok(INTERRUPTED),
        named => named?,
    };
    let checkout = match checkout {
        None => None,
        Some(checkout) => {
            let image = request.image.as_ref();
            match checkout
                .ready(context, &client, image, &mut interrupts)
                .await
            {
                Err(error) if error.0.code == ErrorCode::Cancelled => return Ok(INTERRUPTED),
                ready => Some(ready?),
            }
        }
    };
    request.work_seed = checkout.as_ref().and_then(Ready::work_seed);
    let mut command = if args.entrypoint {
        let image = of_container(&client, request.image.as_ref()).await?;
        entrypoint::request(&image, args.command, env)?
    } else {
        let mut command = ExecRequest::new(args.command);
        command.env = env;
        command
    };
    let operation = begin(context, &client, &request).await?;
    let name = operation.subject.clone();
    let vm = operation.vm_id.clone().unwrap_or_else(|| name.clone());
    let cancel = OnInterrupt::Cancel;
    // What is not in the work disk is packed while the guest boots, and sent while services start.
    let with_checkout = checkout.is_some();
    let (tell, made) = watch::channel(false);
    let sending = async {
        match checkout {
            Some(checkout) => Ok(Some(checkout.bring(context, &client, &vm, made).await)),
            None => Ok(None),
        }
    };
    let following = async {
        let made = follow(context.ui, &client, &operation, &mut interrupts, cancel).await?;
        // Nobody listens who has no checkout.
        tell.send_replace(true);
        Ok::<_, CommandError>(made)
    };
    let (made, sent) = match futures_util::future::try_join(following, sending).await {
        Ok((made, sent)) => (Ok(made), sent),
        Err(error) => (Err(error), None),
    };
    if let Ok(operation) = &made {
        context.ui.warnings(&operation.warnings);
    }
    if let Err(error) = made {
        if error.0.code == ErrorCode::Cancelled {
            return Ok(INTERRUPTED);
        }
        return Err(kept(&client, &operation, &of_vm, error).await);
    }
    if interrupts.seen() {
        // It came too late to cancel, and before anything ran in the guest.
        delete(&client, &vm).await?;
        return Ok(INTERRUPTED);
    }
    let sent = match sent {
        Some(Ok(sent)) => sent.finish(context).await,
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    if let Err(error) = sent {
        if args.rm {
            delete(&client, &vm).await?;
            return Err(error);
        }
        return Err(error.hint(format!(
            "the VM `{name}` is kept: `banger vm workspace prepare {name}` tries again"
        )));
    }
    if with_checkout && !args.entrypoint {
        command.cwd = Some(workspace::GUEST_PATH.to_owned());
    }
    if args.detach {
        vm_environment::give(&client, &vm, &name, &of_vm, &mut interrupts).await?;
        let shown = client.vm(&vm).await?;
        context
            .ui
            .result(&shown, |vm| ways_in(&name, &vm.address, with_checkout));
        return Ok(0);
    }
    // From here on they are the command's. One that came before is seen by one of both.
    let signals = exec::watch(is_shell)?;
    if interrupts.seen() {
        delete(&client, &vm).await?;
        return Ok(INTERRUPTED);
    }
    let code = match exec::reach(&client, &vm).await {
        Ok(stream) => exec::over(stream, command, is_shell, signals).await,
        Err(error) => Err(error),
    };
    if !is_shell && matches!(code, Ok(1..)) {
        note_early(context, &client, &vm).await;
    }
    if args.rm {
        if with_checkout {
            let held = unpulled::sentences(&client, std::slice::from_ref(&vm)).await;
            context.ui.warnings(&held);
        }
        delete(&client, &vm).await?;
    } else if client.vm(&vm).await.is_ok_and(|vm| vm.phase == "running") {
        context.ui.note(&format!(
            "{name} still runs: `banger vm ssh {name}` goes back, `banger vm delete {name}` removes it"
        ));
        if with_checkout {
            context.ui.note(&format!(
                "`banger vm workspace diff {name}` shows what changed, `banger vm workspace pull {name}` brings commits here"
            ));
        }
    }
    code
}

/// The failure of a create, with what became of its VM.
async fn kept(
    client: &Client,
    operation: &Operation,
    environment: &Environment,
    error: CommandError,
) -> CommandError {
    let name = &operation.subject;
    let vm = operation.vm_id.as_ref().unwrap_or(name);
    if error.0.code == ErrorCode::Cancelled || client.vm(vm).await.is_err() {
        return error;
    }
    let error = error.hint(format!(
        "the VM `{name}` is kept: `banger vm show {name}`, `banger vm logs {name}`"
    ));
    match environment.is_empty() {
        true => error,
        false => vm_environment::without(name, error),
    }
}

/// What to type next.
fn ways_in(name: &str, address: impl std::fmt::Display, with_checkout: bool) -> String {
    let mut text = format!(
        "{name} runs at {address}\n  shell  banger vm exec -it {name} -- bash\n  ssh    banger vm ssh {name}\n"
    );
    if with_checkout {
        text.push_str(&format!(
            "  diff   banger vm workspace diff {name}\n  pull   banger vm workspace pull {name}\n"
        ));
    }
    text + &format!("  stop   banger vm stop {name}")
}

/// The image whose entry point is asked for; it must be here before anything is made.
async fn of_container(client: &Client, name: Option<&ImageName>) -> Result<Image, CommandError> {
    let Some(name) = name else {
        let what = "--entrypoint runs what an image runs as a container, and no image is named";
        return Err(CommandError::new(ErrorCode::InvalidArgument, what)
            .hint("name one: --image debian:trixie"));
    };
    let found = client
        .image(name.as_str())
        .await
        .map_err(CommandError::from);
    found.map_err(|error| match error.0.code {
        ErrorCode::ImageNotFound => error.hint(format!("`banger image pull {name}` comes first")),
        _ => error,
    })
}

/// Says so when the guest was still booting as its command failed: what talks to the init or to a
/// service cannot work that early.
async fn note_early(context: &Context<'_>, client: &Client, vm: &str) {
    let shown = client.vm(vm).await;
    if shown.is_ok_and(|vm| vm.phase == "running" && vm.readiness == Readiness::Reachable) {
        context.ui.note(
            "note: the system was still booting while the command ran; `--wait ready` runs it afterwards",
        );
    }
}

/// Deletes a VM, which takes milliseconds: no stages are shown, and an interrupt changes nothing.
pub(super) async fn delete(client: &Client, vm: &str) -> Result<(), CommandError> {
    let quiet = crate::ui::Ui::new(crate::ui::Output::Json);
    let mut interrupts = Interrupts::watch()?;
    let deleted = client.delete_vm(vm).await?;
    let leave = OnInterrupt::Leave;
    follow(&quiet, client, &deleted, &mut interrupts, leave)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use banger_core::{ByteSize, MemoryMib};

    use super::*;

    #[test]
    fn each_value_says_where_it_came_from_unless_all_came_from_one_place() {
        let line = |vcpu, memory_mib, disk_size| {
            spec_line(&SpecLine {
                vcpu: 2,
                memory_mib: MemoryMib(4096),
                disk_size: ByteSize::gib(8),
                origins: SpecOrigins {
                    vcpu,
                    memory_mib,
                    disk_size,
                },
            })
        };
        let host = SpecOrigin::Host;
        assert_eq!(
            line(host, host, host),
            "spec: 2 vCPU · 4096 MiB · 8 GiB disk (host-derived)"
        );
        assert_eq!(
            line(SpecOrigin::Flag, SpecOrigin::Config, host),
            "spec: 2 vCPU (as asked) · 4096 MiB (from the configuration) · 8 GiB disk (host-derived)"
        );
    }

    #[test]
    fn what_to_type_next() {
        insta::assert_snapshot!(ways_in("demo", "172.16.0.5", true), @r"
        demo runs at 172.16.0.5
          shell  banger vm exec -it demo -- bash
          ssh    banger vm ssh demo
          diff   banger vm workspace diff demo
          pull   banger vm workspace pull demo
          stop   banger vm stop demo
        ");
        assert!(!ways_in("demo", "172.16.0.5", false).contains("workspace"));
    }
}
