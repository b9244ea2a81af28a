//! `daemon …`, `version`, `completion`.

use banger_client::Client;
use banger_core::ErrorCode;
use clap_complete::env::Shells;
use serde::Serialize;

use super::{CommandResult, Context};
use crate::cli::DaemonCommand;
use crate::error::CommandError;
use crate::start::{self, Needs};
use crate::ui::Ui;

/// `daemon …`.
pub(crate) async fn daemon(context: &Context<'_>, command: &DaemonCommand) -> CommandResult {
    match command {
        DaemonCommand::Status => status(context, &Client::new(context.paths.socket())).await,
        DaemonCommand::Start | DaemonCommand::Stop if context.paths.installed_for.is_some() => {
            let what = "banger is installed on this host: systemd starts and stops its daemons";
            Err(CommandError::new(ErrorCode::Installed, what).hint(
                "`sudo systemctl start bangerd`, `sudo systemctl stop bangerd`, or `sudo banger system restart`",
            ))
        }
        DaemonCommand::Start => {
            let client = context.client(Needs::Helper).await?;
            status(context, &client).await
        }
        DaemonCommand::Stop => stop(context).await,
        DaemonCommand::Socket => {
            let socket = context.paths.socket().display().to_string();
            context.ui.result(&socket, Clone::clone);
            Ok(0)
        }
    }
}

async fn status(context: &Context<'_>, client: &Client) -> CommandResult {
    let status = match client.daemon().await {
        Err(error) if error.is_no_daemon() => {
            let error = CommandError::new(ErrorCode::DaemonUnavailable, "the daemon does not run");
            return Err(error.hint(match context.paths.installed_for {
                Some(_) => "`sudo systemctl start bangerd` starts it",
                None => "`banger daemon start`, or any command that needs it, starts it",
            }));
        }
        result => result?,
    };
    context.ui.result(&status, |status| {
        let helper = match (&status.version.helper.version, status.version.helper.pid) {
            (Some(version), Some(pid)) => format!("{version} (pid {pid})"),
            _ => status
                .version
                .helper
                .problem
                .clone()
                .unwrap_or_else(|| "does not run".into()),
        };
        let mut rows = vec![
            (
                "daemon",
                format!(
                    "{} (pid {})",
                    status.version.daemon.version, status.version.daemon.pid
                ),
            ),
            ("helper", helper),
            ("socket", status.socket.clone()),
            ("log", status.log.clone()),
            ("dns", status.dns.clone()),
            ("state", status.state_dir.clone()),
            (
                "vms",
                format!("{} running of {}", status.running_vms, status.vms),
            ),
            ("started", status.started_at.clone()),
        ];
        rows.extend(
            status
                .problems
                .iter()
                .map(|problem| ("problem", problem.clone())),
        );
        rows.iter()
            .map(|(key, value)| format!("{key:<8} {value}\n"))
            .collect()
    });
    Ok(0)
}

async fn stop(context: &Context<'_>) -> CommandResult {
    let client = Client::new(context.paths.socket());
    let status = match client.daemon().await {
        Err(error) if error.is_no_daemon() => {
            context.ui.note("the daemon does not run");
            return Ok(0);
        }
        result => result?,
    };
    start::stop_daemon(&client, status.version.daemon.pid).await?;
    if let Some(pid) = status.version.helper.pid {
        start::stop_helper(pid)?;
    }
    let left = match status.running_vms {
        0 => "stopped".to_owned(),
        count => {
            format!("stopped; {count} VMs go on running and are found again at the next start")
        }
    };
    context.ui.note(&left);
    Ok(0)
}

#[derive(Debug, Serialize)]
struct Builds {
    cli: String,
    daemon: Option<String>,
    helper: Option<String>,
}

/// `version`.
pub(crate) async fn version(context: &Context<'_>) -> CommandResult {
    let running = Client::new(context.paths.socket()).version().await.ok();
    let builds = Builds {
        cli: env!("CARGO_PKG_VERSION").to_owned(),
        daemon: running
            .as_ref()
            .map(|version| version.daemon.version.clone()),
        helper: running.and_then(|version| version.helper.version),
    };
    context.ui.result(&builds, |builds| {
        let or_not =
            |version: &Option<String>| version.clone().unwrap_or_else(|| "does not run".into());
        format!(
            "banger  {}\ndaemon  {}\nhelper  {}",
            builds.cli,
            or_not(&builds.daemon),
            or_not(&builds.helper)
        )
    });
    Ok(0)
}

/// `completion`: a script that asks this program at each Tab.
pub(crate) fn completion(ui: &Ui, shell: clap_complete::Shell) -> CommandResult {
    let broken =
        |error: std::io::Error| CommandError::internal("the script could not be written", &error);
    let program = std::env::current_exe().map_err(broken)?;
    let mut script = Vec::new();
    if let Some(completer) = Shells::builtins().completer(&shell.to_string()) {
        let program = program.to_string_lossy();
        completer
            .write_registration("COMPLETE", "banger", "banger", &program, &mut script)
            .map_err(broken)?;
    }
    match ui.bytes(&script) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(broken(error)),
        _ => Ok(0),
    }
}
