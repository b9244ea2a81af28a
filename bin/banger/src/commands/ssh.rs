//! `vm ssh`: OpenSSH with banger's key and the guest's pinned host key.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use banger_api::{Readiness, SshTarget};
use banger_core::ErrorCode;

use super::{CommandResult, Context};
use crate::cli::SshArgs;
use crate::error::CommandError;
use crate::start::Needs;

/// ssh's own exit code when it failed itself (ssh(1)).
const SSH_FAILED: i32 = 255;
/// So many lines of its complaints are shown.
const MAX_SHOWN: usize = 5;

/// `vm ssh`.
pub(crate) async fn ssh(context: &Context<'_>, args: &SshArgs) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    // Ready: sshd listens. The connection itself is not needed. A VM that still boots is waited for.
    drop(
        client
            .connect_guest(&args.vm, Readiness::Ready, None)
            .await?,
    );
    let target = client.ssh_target(&args.vm).await?;
    let unlogged = |error: std::io::Error| {
        CommandError::because(
            ErrorCode::Internal,
            "there is no file for ssh's log",
            &error,
        )
    };
    let mut log = tempfile::NamedTempFile::new().map_err(unlogged)?;
    let mut command = command(&target, log.path(), &args.command);
    let status = command.status().map_err(|error| {
        CommandError::because(ErrorCode::HostNotReady, "ssh could not be started", &error)
            .hint("install the package openssh-client")
    })?;
    let mut complaints = Vec::new();
    // What cannot be read is no complaint.
    let _ = log.read_to_end(&mut complaints);
    let code = status.code().unwrap_or(SSH_FAILED);
    if let Some(failure) = failed(code, &complaints) {
        return Err(failure);
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

/// Whether it was ssh that failed. The command in the guest may end with ssh's code for that, too, and ssh's with
/// it when a signal ended the command; then it complains of nothing.
fn failed(code: i32, complaints: &[u8]) -> Option<CommandError> {
    let lines = complaints
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty()).take(MAX_SHOWN);
    let causes: Vec<String> = lines.map(banger_guest_proto::shown).collect();
    if code != SSH_FAILED || causes.is_empty() {
        return None;
    }
    let mut error = CommandError::new(ErrorCode::AgentUnreachable, "ssh itself failed");
    error.0.causes = causes;
    Some(error.hint("`banger vm exec` needs neither a network nor sshd in the guest"))
}

fn command(target: &SshTarget, log: &Path, remote: &[String]) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-i", &target.identity_file]);
    command.arg("-E").arg(log);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ssh_that_complains_has_failed_itself() {
        assert_eq!(failed(255, b""), None);
        assert_eq!(failed(255, b"\r\n"), None);
        assert_eq!(failed(3, b"something"), None);
        let error = failed(255, b"ssh: connect to host x:\r\nrefused \x1b[2J\n").unwrap();
        assert_eq!(
            error.0.causes,
            ["ssh: connect to host x:", "refused \\u{1b}[2J"]
        );
    }
}
