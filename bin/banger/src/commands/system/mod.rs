//! `system …`: the whole host's installation. Decisions are in `banger-install`; here they are carried out.

mod install;
mod owner_call;
mod status;
mod uninstall;

use std::path::Path;

use banger_core::ErrorCode;
use banger_install::{RECORD, Record, Systemctl, SystemdError};

use super::CommandResult;
use crate::cli::SystemCommand;
use crate::error::CommandError;
use crate::ui::Ui;

/// The units that are started and stopped by name, in the order of stopping.
pub(crate) const STARTED: &[&str] = &[
    "bangerd.service",
    "bangerd-build.socket",
    "bangerd-root.socket",
    "bangerd-root.service",
];

/// The units that are started at boot.
pub(crate) const ENABLED: &[&str] = &[
    "bangerd-root.socket",
    "bangerd-build.socket",
    "bangerd.service",
    GUESTS,
];

/// Its end is that of all VMs.
pub(crate) const GUESTS: &str = "banger-guests.service";

/// `system …`.
pub(crate) fn system(ui: &Ui, command: &SystemCommand) -> CommandResult {
    match command {
        SystemCommand::Install(args) => install::install(ui, args),
        SystemCommand::Status => status::status(ui),
        SystemCommand::Restart => restart(ui),
        SystemCommand::Uninstall(args) => uninstall::uninstall(ui, args),
    }
}

fn restart(ui: &Ui) -> CommandResult {
    need_root("system restart")?;
    need_systemd()?;
    installed()?;
    stop_units()?;
    start_units()?;
    ui.result(&serde_json::json!({ "restarted": STARTED }), |_| {
        "restarted; running VMs went on".to_owned()
    });
    Ok(0)
}

/// Ends daemon and helper and waits for it. VMs go on.
pub(crate) fn stop_units() -> Result<(), CommandError> {
    // What is not there does not run: half an installation can be stopped, too.
    let loaded: Vec<&str> = Systemctl
        .units(STARTED)
        .map_err(|error| systemd(&error))?
        .iter()
        .filter(|unit| unit.load == "loaded")
        .filter_map(|unit| STARTED.iter().copied().find(|name| *name == unit.name))
        .collect();
    if loaded.is_empty() {
        return Ok(());
    }
    let args: Vec<&str> = ["stop", "--"].into_iter().chain(loaded).collect();
    Systemctl
        .run(&args)
        .map(drop)
        .map_err(|error| systemd(&error))
}

/// Starts daemon and helper, now and at boot, and waits until they answer.
pub(crate) fn start_units() -> Result<(), CommandError> {
    let run = |verb: &[&str]| {
        let args: Vec<&str> = verb.iter().chain(ENABLED).copied().collect();
        Systemctl.run(&args)
    };
    Systemctl
        .run(&["daemon-reload"])
        .and_then(|_| Systemctl.run(&["reset-failed", "bangerd*"]))
        .and_then(|_| run(&["enable", "--quiet", "--"]))
        .and_then(|_| run(&["start", "--"]))
        // It would come by itself; this way a helper that cannot work is an error here and now.
        .and_then(|_| Systemctl.run(&["start", "--", "bangerd-root.service"]))
        .map_err(|error| {
            let mut error = systemd(&error);
            for unit in ["bangerd.service", "bangerd-root.service"] {
                let words = Systemctl.last_words(unit).into_iter();
                error
                    .0
                    .causes
                    .extend(words.map(|line| format!("{unit}: {line}")));
            }
            error
                .hint("`banger system status` and `journalctl -u bangerd -u bangerd-root` say more")
        })?;
    Ok(())
}

fn systemd(error: &SystemdError) -> CommandError {
    match error {
        SystemdError::NotBooted => CommandError::new(ErrorCode::HostNotReady, error.to_string()).hint(
            "without systemd nothing is installed: `make install`, and the first `banger vm run` starts its own \
             daemons",
        ),
        error => CommandError::because(ErrorCode::HostNotReady, "systemd did not do it", error),
    }
}

fn need_systemd() -> Result<(), CommandError> {
    Systemctl.check().map_err(|error| systemd(&error))
}

/// The command as it must be called, when it was not called as root.
fn need_root(command: &str) -> Result<(), CommandError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let itself = std::env::current_exe()
        .map_or_else(|_| "banger".to_owned(), |path| path.display().to_string());
    let what = format!("`banger {command}` changes the whole host and needs root");
    let more = if command == "system install" {
        " --owner \"$USER\""
    } else {
        ""
    };
    Err(CommandError::new(ErrorCode::NeedsRoot, what)
        .hint(format!("sudo {itself} {command}{more}")))
}

fn load() -> Result<Option<Record>, CommandError> {
    Record::load(Path::new(RECORD)).map_err(|error| {
        let what = "the record of banger's installation cannot be used";
        CommandError::because(ErrorCode::HostNotReady, what, &error).hint(format!(
            "remove {RECORD} and install again: sudo banger system install --owner USER"
        ))
    })
}

fn installed() -> Result<Record, CommandError> {
    load()?.ok_or_else(|| {
        CommandError::new(
            ErrorCode::NotInstalled,
            "banger is not installed on this host",
        )
        .hint("sudo banger system install --owner \"$USER\"")
    })
}
