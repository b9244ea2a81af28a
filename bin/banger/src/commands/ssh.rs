//! `vm ssh`: OpenSSH with banger's key and the guest's pinned host key.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use banger_api::{Readiness, SshTarget};
use banger_core::ErrorCode;
use rustix::fs::MemfdFlags;

use super::{CommandResult, Context};
use crate::cli::SshArgs;
use crate::error::CommandError;
use crate::start::Needs;

/// ssh's own exit code when it failed itself (ssh(1)).
const SSH_FAILED: i32 = 255;
/// How long a guest that says nothing at all is waited for: it is ready by then, or its agent is gone.
const CONNECT_SECONDS: u32 = 60;
/// So many lines of its complaints are shown.
const MAX_SHOWN: usize = 5;

/// `vm ssh`.
pub(crate) async fn ssh(context: &Context<'_>, args: &SshArgs) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    // Ready: sshd listens. The connection itself is not needed. A VM that still boots is waited for.
    match client
        .connect_guest(&args.vm, Readiness::Ready, None)
        .await
        .map_err(CommandError::from)
    {
        Ok(connection) => drop(connection),
        // sshd needs no agent.
        Err(error) if error.0.code == ErrorCode::AgentUnreachable => {
            context
                .ui
                .note("the guest's agent does not answer: ssh is tried without it");
        }
        Err(error) => return Err(error),
    }
    let target = client.ssh_target(&args.vm).await?;
    let unlogged = |error: std::io::Error| {
        CommandError::because(
            ErrorCode::Internal,
            "there is no file for ssh's log",
            &error,
        )
    };
    let mut log = log().map_err(unlogged)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), log.as_raw_fd());
    let mut command = command(&target, path.as_ref(), &args.command);
    let status = command.status().map_err(|error| {
        CommandError::because(ErrorCode::HostNotReady, "ssh could not be started", &error)
            .hint("install the package openssh-client")
    })?;
    let mut complaints = Vec::new();
    // What cannot be read is no complaint. ssh has opened it anew: this end has not moved.
    let _ = log.read_to_end(&mut complaints);
    let code = status.code().unwrap_or(SSH_FAILED);
    if let Some(failure) = failed(&args.vm, code, &complaints) {
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

/// A file that has no name and is on no disk.
fn log() -> std::io::Result<File> {
    let file = rustix::fs::memfd_create("ssh-log", MemfdFlags::CLOEXEC)?;
    Ok(File::from(file))
}

/// Whether it was ssh that failed. The command in the guest may end with ssh's code for that, too, and ssh's with
/// it when a signal ended the command; then it complains of nothing.
fn failed(vm: &str, code: i32, complaints: &[u8]) -> Option<CommandError> {
    let lines = complaints
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty()).take(MAX_SHOWN);
    let causes: Vec<String> = lines.map(banger_guest_proto::shown).collect();
    if code != SSH_FAILED || causes.is_empty() {
        return None;
    }
    if causes.iter().any(|line| line.ends_with(REFUSED)) {
        return Some(no_server(vm));
    }
    let mut error = CommandError::new(ErrorCode::AgentUnreachable, "ssh itself failed");
    error.0.causes = causes;
    Some(error.hint("`banger vm exec` needs neither a network nor sshd in the guest"))
}

/// What ssh says where nothing listens.
const REFUSED: &str = "port 22: Connection refused";

/// Nothing in the guest takes ssh: with what to do instead.
pub(super) fn no_server(vm: &str) -> CommandError {
    let what =
        format!("nothing in `{vm}` takes ssh: its image has no ssh server, or that does not run");
    CommandError::new(ErrorCode::SessionNotFound, what)
        .hint(format!("`banger vm exec -it {vm} -- sh` needs none"))
        .hint("install one in the guest or its image (`openssh-server`), and `vm ssh` works")
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
        format!("ConnectTimeout={CONNECT_SECONDS}"),
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
        assert_eq!(failed("demo", 255, b""), None);
        assert_eq!(failed("demo", 255, b"\r\n"), None);
        assert_eq!(failed("demo", 3, b"something"), None);
        let error = failed("demo", 255, b"ssh: connect to host x:\r\nrefused \x1b[2J\n").unwrap();
        assert_eq!(
            error.0.causes,
            ["ssh: connect to host x:", "refused \\u{1b}[2J"]
        );
        assert_eq!(error.0.code, ErrorCode::AgentUnreachable);
    }

    #[test]
    fn where_nothing_listens_another_way_in_is_told() {
        let said = b"ssh: connect to host 172.16.0.9 port 22: Connection refused\r\n";
        let error = failed("demo", 255, said).unwrap();
        assert_eq!(error.0.code, ErrorCode::SessionNotFound);
        assert!(error.0.hints[0].contains("vm exec -it demo -- sh"));
    }
}
