//! `vm ssh`: OpenSSH with banger's key and the guest's pinned host key.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_api::{Readiness, SshTarget};
use banger_core::ErrorCode;
use rustix::fs::MemfdFlags;

use super::{CommandResult, Context, ssh_config};
use crate::cli::SshArgs;
use crate::error::CommandError;
use crate::start::Needs;

/// ssh's own exit code when it failed itself (ssh(1)).
const SSH_FAILED: i32 = 255;
/// How long a guest is waited for that says nothing at all on the network: it is ready by then, and there is the way over
/// vsock, which needs no network.
const CONNECT_SECONDS: u32 = 10;
/// The same where there is no other way: the agent is gone, or it is the way over vsock, where the server may first have to
/// be brought there (ssh counts the time to its first words, too).
const LAST_WAY_SECONDS: u32 = 60;
/// So many lines of its complaints are shown.
const MAX_SHOWN: usize = 5;

/// `vm ssh`.
pub(crate) async fn ssh(context: &Context<'_>, args: &SshArgs) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    // Ready: sshd listens. The connection itself is not needed. A VM that still boots is waited for.
    let has_agent = match client
        .connect_guest(&args.vm, Readiness::Ready, None)
        .await
        .map_err(CommandError::from)
    {
        Ok(_connection) => true,
        // sshd needs no agent.
        Err(error) if error.0.code == ErrorCode::AgentUnreachable => {
            context
                .ui
                .note("the guest's agent does not answer: ssh is tried without it");
            false
        }
        Err(error) => return Err(error),
    };
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
    let mut way = Way::Network;
    let code = loop {
        let other_way = has_agent && way == Way::Network;
        let patience = if other_way {
            CONNECT_SECONDS
        } else {
            LAST_WAY_SECONDS
        };
        let mut command = command(&target, &way, patience, path.as_ref(), &args.command);
        let status = command.status().map_err(|error| {
            CommandError::because(ErrorCode::HostNotReady, "ssh could not be started", &error)
                .hint("install the package openssh-client")
        })?;
        let mut complaints = Vec::new();
        // What cannot be read is no complaint. ssh has opened it anew: this end has not moved.
        let _ = log.read_to_end(&mut complaints);
        let code = status.code().unwrap_or(SSH_FAILED);
        match ended(code, &complaints) {
            Ended::Well => break code,
            Ended::NoWay(_) if other_way => {
                // Nothing has run. By that way there is banger's own server, and no network is needed.
                way = Way::Proxy(this_program()?);
                log.set_len(0).map_err(unlogged)?;
                log.rewind().map_err(unlogged)?;
            }
            Ended::NoWay(causes) | Ended::Failed(causes) => return Err(itself_failed(causes)),
        }
    };
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

/// How ssh ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// With what it ran.
    Well,
    /// Before anything ran: nothing listens where it wanted to connect to, or nobody answers.
    NoWay(Vec<String>),
    /// For its own reasons, which it has told.
    Failed(Vec<String>),
}

/// Whether it was ssh that failed. The command in the guest may end with ssh's code for that, too, and ssh's with
/// it when a signal ended the command; then it complains of nothing.
fn ended(code: i32, complaints: &[u8]) -> Ended {
    let lines = complaints
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty()).take(MAX_SHOWN);
    let causes: Vec<String> = lines.map(banger_guest_proto::shown).collect();
    if code != SSH_FAILED || causes.is_empty() {
        return Ended::Well;
    }
    let is_of_the_way = |line: &String| NO_WAY.iter().any(|said| line.ends_with(said));
    match causes.iter().any(is_of_the_way) {
        true => Ended::NoWay(causes),
        false => Ended::Failed(causes),
    }
}

/// What ssh says where nothing listens, and where the guest's network is down.
const NO_WAY: [&str; 4] = [
    "port 22: Connection refused",
    "port 22: Connection timed out",
    "port 22: No route to host",
    "port 22: Network is unreachable",
];

fn itself_failed(causes: Vec<String>) -> CommandError {
    let mut error = CommandError::new(ErrorCode::AgentUnreachable, "ssh itself failed");
    error.0.causes = causes;
    error.hint("`banger vm exec` needs neither a network nor sshd in the guest")
}

/// This program, for ssh to run.
pub(super) fn this_program() -> Result<PathBuf, CommandError> {
    std::env::current_exe()
        .map_err(|error| CommandError::internal("this program cannot find itself", &error))
}

/// How ssh gets to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// To the sshd at its address.
    Network,
    /// Over vsock, through this program, to whatever takes ssh there: banger's own server where nothing else does.
    Proxy(PathBuf),
}

fn command(target: &SshTarget, way: &Way, patience: u32, log: &Path, remote: &[String]) -> Command {
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
        format!("ConnectTimeout={patience}"),
    ] {
        command.args(["-o", &option]);
    }
    let host = match way {
        Way::Network => &target.host,
        Way::Proxy(program) => {
            let proxy = format!("ProxyCommand={}", ssh_config::proxy_command(program));
            command.args(["-o", &proxy]);
            &target.host_key_alias
        }
    };
    command.arg(format!("{}@{host}", target.user));
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
        assert_eq!(ended(255, b""), Ended::Well);
        assert_eq!(ended(255, b"\r\n"), Ended::Well);
        assert_eq!(ended(3, b"something"), Ended::Well);
        let causes = ["ssh: connect to host x:", "refused \\u{1b}[2J"].map(str::to_owned);
        assert_eq!(
            ended(255, b"ssh: connect to host x:\r\nrefused \x1b[2J\n"),
            Ended::Failed(causes.to_vec())
        );
        let error = itself_failed(causes.to_vec());
        assert_eq!(error.0.code, ErrorCode::AgentUnreachable);
        assert_eq!(error.0.causes, causes);
    }

    #[test]
    fn where_nothing_listens_the_way_over_vsock_is_taken() {
        for why in [
            "Connection refused",
            "Connection timed out",
            "No route to host",
        ] {
            let said = format!("ssh: connect to host 172.16.0.9 port 22: {why}");
            let lines = format!("{said}\r\n");
            assert_eq!(ended(255, lines.as_bytes()), Ended::NoWay(vec![said]));
        }
        let target = SshTarget {
            user: "root".into(),
            host: "172.16.0.9".into(),
            identity_file: "/key".into(),
            known_hosts: "/known".into(),
            host_key_alias: "demo.vm".into(),
        };
        let words = |way| {
            let command = command(&target, way, 10, "/log".as_ref(), &["true".to_owned()]);
            let words = command
                .get_args()
                .map(|word| word.to_string_lossy().into_owned());
            words.collect::<Vec<_>>()
        };
        let by_network = words(&Way::Network);
        assert!(by_network.contains(&"root@172.16.0.9".to_owned()));
        assert!(!by_network.iter().any(|word| word.contains("Proxy")));
        let by_proxy = words(&Way::Proxy("/opt/a b/banger".into()));
        assert!(by_proxy.contains(&"root@demo.vm".to_owned()));
        let proxy = "ProxyCommand='/opt/a b/banger' vm ssh-proxy %n".to_owned();
        assert!(by_proxy.contains(&proxy), "{by_proxy:?}");
    }
}
