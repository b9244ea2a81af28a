//! `vm ssh`: OpenSSH with banger's key and the guest's pinned host key.

use std::process::Command;

use banger_api::{Readiness, SshTarget};
use banger_core::ErrorCode;

use super::{CommandResult, Context};
use crate::cli::SshArgs;
use crate::error::CommandError;
use crate::start::Needs;

/// ssh's own exit code when it failed itself (ssh(1)).
const SSH_FAILED: i32 = 255;

/// `vm ssh`.
pub(crate) async fn ssh(context: &Context<'_>, args: &SshArgs) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let target = client.ssh_target(&args.vm).await?;
    // Ready: sshd listens. The connection itself is not needed.
    drop(
        client
            .connect_guest(&args.vm, Readiness::Ready, None)
            .await?,
    );
    let status = command(&target, &args.command).status().map_err(|error| {
        CommandError::because(ErrorCode::HostNotReady, "ssh could not be started", &error)
            .hint("install the package openssh-client")
    })?;
    let code = status.code().unwrap_or(SSH_FAILED);
    if code == SSH_FAILED {
        return Err(CommandError::new(
            ErrorCode::AgentUnreachable,
            "ssh itself failed",
        ));
    }
    if args.command.is_empty()
        && client
            .vm(&args.vm)
            .await
            .is_ok_and(|vm| vm.phase == "running")
    {
        context.ui.note(&format!(
            "{} still runs: `banger vm stop {}` stops it",
            args.vm, args.vm
        ));
    }
    Ok(u8::try_from(code).unwrap_or(1))
}

fn command(target: &SshTarget, remote: &[String]) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-i", &target.identity_file]);
    for option in [
        format!("UserKnownHostsFile=\"{}\"", target.known_hosts),
        format!("HostKeyAlias={}", target.host_key_alias),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ] {
        command.args(["-o", &option]);
    }
    command.arg(format!("{}@{}", target.user, target.host));
    if !remote.is_empty() {
        command.arg("--").args(remote);
    }
    command
}
