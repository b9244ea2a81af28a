//! `system uninstall`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_core::ErrorCode;
use banger_install::{
    BUILD_SOCKET, CACHE_DIR, CONFIG_DIR, HELPER_DIR, RECORD, ROOT_CONFIG, RUNTIME_DIR, Record,
    STATE_DIR, Systemctl, lib_dir, remove,
};
use serde::Serialize;

use super::owner_call::{Running, running, stop_vms};
use super::{ENABLED, GUESTS, installed, need_root, need_systemd, stop_units, systemd};
use crate::cli::UninstallArgs;
use crate::commands::CommandResult;
use crate::error::CommandError;
use crate::ui::Ui;

/// What was done.
#[derive(Debug, Serialize)]
struct Uninstalled {
    stopped_vms: Vec<String>,
    kept: Vec<PathBuf>,
    purged: Vec<PathBuf>,
}

/// `system uninstall`.
pub(crate) fn uninstall(ui: &Ui, args: &UninstallArgs) -> CommandResult {
    need_root("system uninstall")?;
    need_systemd()?;
    let record = installed()?;
    let stopped_vms = end_vms(ui, &record, args.force)?;
    // While there is a daemon that can say that nothing runs. What it fails in has been told.
    let _ = Systemctl.run(&["stop", "--", GUESTS]);
    stop_units()?;
    if let Err(error) = clear(&record) {
        if !args.force {
            return Err(error.hint("with --force the installation is removed all the same"));
        }
        ui.note(&format!("warning: {error}: {}", error.0.causes.join(": ")));
    }
    remove_units(&record)?;
    remove_rest(&record)?;
    let mut data: Vec<PathBuf> = [STATE_DIR, CACHE_DIR].map(PathBuf::from).into();
    data.retain(|path| path.exists());
    let purged = if args.purge {
        std::mem::take(&mut data)
    } else {
        vec![]
    };
    for path in &purged {
        fs::remove_dir_all(path).map_err(|error| failed(path, &error))?;
    }
    data.extend([record.owner.home.join(".config/banger")]);
    let done = Uninstalled {
        stopped_vms,
        kept: data,
        purged,
    };
    ui.result(&done, describe);
    Ok(0)
}

fn describe(done: &Uninstalled) -> String {
    let list = |paths: &[PathBuf]| {
        let paths: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        paths.join(", ")
    };
    let mut text = "banger is uninstalled\n".to_owned();
    if !done.purged.is_empty() {
        text += &format!("deleted   {}\n", list(&done.purged));
    }
    text + &format!("kept      {}", list(&done.kept))
}

/// Refuses while VMs run; with force, stops them cleanly.
fn end_vms(ui: &Ui, record: &Record, force: bool) -> Result<Vec<String>, CommandError> {
    match running(record) {
        Running::Known(names) if names.is_empty() => Ok(names),
        Running::Known(names) if force => {
            ui.note(&format!("stopping {}", names.join(", ")));
            if let Err(why) = stop_vms(record, &names) {
                // The helper ends what is left.
                ui.note(&format!("warning: not all stopped cleanly: {why}"));
            }
            Ok(names)
        }
        Running::Known(names) => {
            let what = format!("VMs run: {}", names.join(", "));
            Err(CommandError::new(ErrorCode::InUse, what)
                .hint("stop them (`banger vm stop`), or uninstall with --force, which does; their disks stay"))
        }
        Running::Unknown(_) if force => Ok(vec![]),
        Running::Unknown(count) => {
            let what = format!("the daemon does not answer, and {count} processes of VMs run");
            Err(CommandError::new(ErrorCode::InUse, what).hint(
                "start it (`sudo systemctl start bangerd`) and stop the VMs, or uninstall with --force, which ends them",
            ))
        }
    }
}

/// Has the helper end what is left, and take down taps and network.
fn clear(record: &Record) -> Result<(), CommandError> {
    let helper = lib_dir(&record.prefix).join("bangerd-root");
    if !helper.exists() || !Path::new(ROOT_CONFIG).exists() {
        // Half an installation made nothing.
        return Ok(());
    }
    let what = "what the helper made could not be removed";
    let output = Command::new(&helper)
        .args(["--config", ROOT_CONFIG, "--clear"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|error| CommandError::because(ErrorCode::HelperUnavailable, what, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let mut error = CommandError::new(ErrorCode::HelperUnavailable, what);
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    error.0.causes.push(why);
    Err(error)
}

fn remove_units(record: &Record) -> Result<(), CommandError> {
    let has_units = record
        .files
        .iter()
        .any(|file| file.path.ends_with("bangerd.service") && file.path.exists());
    if has_units {
        let args: Vec<&str> = ["disable", "--quiet", "--"]
            .into_iter()
            .chain(ENABLED.iter().copied())
            .collect();
        Systemctl.run(&args).map_err(|error| systemd(&error))?;
    }
    let (units, rest): (Vec<_>, Vec<_>) = record
        .files
        .iter()
        .map(|file| file.path.as_path())
        .partition(|path| path.starts_with("/etc/systemd/system"));
    // What is in it has ended; it is loaded no longer than its file is there.
    if has_units {
        Systemctl
            .run(&["stop", "--", "banger.slice"])
            .map_err(|error| systemd(&error))?;
    }
    for path in units.into_iter().chain(rest) {
        remove(Path::new("/"), path).map_err(|error| failed(path, &error))?;
    }
    Systemctl
        .run(&["daemon-reload"])
        .map(drop)
        .map_err(|error| systemd(&error))
}

/// What is left besides data: folders that are empty now, and what lives in `/run`.
fn remove_rest(record: &Record) -> Result<(), CommandError> {
    for path in [RUNTIME_DIR, HELPER_DIR] {
        gone(fs::remove_dir_all(path)).map_err(|error| failed(Path::new(path), &error))?;
    }
    gone(fs::remove_file(BUILD_SOCKET)).map_err(|error| failed(Path::new(BUILD_SOCKET), &error))?;
    gone(fs::remove_file(RECORD)).map_err(|error| failed(Path::new(RECORD), &error))?;
    for path in [lib_dir(&record.prefix).as_path(), Path::new(CONFIG_DIR)] {
        match gone(fs::remove_dir(path)) {
            // Somebody else put something there.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            result => result.map_err(|error| failed(path, &error))?,
        }
    }
    // Shared with helpers that are started by hand; stays when there are such.
    let claims = Path::new("/run/banger-root/uids");
    let _ = fs::remove_dir(claims);
    let _ = fs::remove_dir("/run/banger-root");
    Ok(())
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn failed(path: &Path, error: &dyn std::error::Error) -> CommandError {
    let what = format!("{} could not be removed", path.display());
    CommandError::because(ErrorCode::Internal, what, error)
        .hint("when the cause is gone, uninstall again: it goes on where it stopped")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn the_sentences_and_the_documented_json() {
        let mut done = Uninstalled {
            stopped_vms: vec!["demo".to_owned()],
            kept: vec!["/var/lib/banger".into()],
            purged: vec![],
        };
        assert_documented("removal", &serde_json::to_value(&done).unwrap());
        insta::assert_snapshot!(describe(&done), @r"
        banger is uninstalled
        kept      /var/lib/banger
        ");
        std::mem::swap(&mut done.kept, &mut done.purged);
        assert!(describe(&done).contains("deleted   /var/lib/banger"));
    }
}
