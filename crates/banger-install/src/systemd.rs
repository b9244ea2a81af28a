//! Asking and telling systemd, by its own command line.

use std::path::Path;
use std::process::{Command, Output};

use crate::UnitState;

/// `systemctl` by an absolute path, with nothing of the caller's environment.
#[derive(Debug, Clone, Copy)]
pub struct Systemctl;

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// This host is run by something else.
    #[error("this host is not run by systemd")]
    NotBooted,
    /// It could not be run.
    #[error("failed to run systemctl")]
    Run(#[source] std::io::Error),
    /// It refused.
    #[error("`systemctl {args}` failed: {why}")]
    Failed {
        /// The arguments.
        args: String,
        /// What it said.
        why: String,
    },
}

const PROPERTIES: &str =
    "--property=Id,LoadState,ActiveState,SubState,UnitFileState,MainPID,NeedDaemonReload";

impl Systemctl {
    /// Whether systemd runs this host (sd_booted(3)).
    ///
    /// # Errors
    /// It does not.
    pub fn check(self) -> Result<(), SystemdError> {
        match Path::new("/run/systemd/system").is_dir() {
            true => Ok(()),
            false => Err(SystemdError::NotBooted),
        }
    }

    /// Runs `systemctl ARGS`.
    ///
    /// # Errors
    /// It does not start, or fails.
    pub fn run(self, args: &[&str]) -> Result<String, SystemdError> {
        let output = command("/usr/bin/systemctl")
            .args(args)
            .output()
            .map_err(SystemdError::Run)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(SystemdError::Failed {
                args: args.join(" "),
                why: said(&output),
            }),
        }
    }

    /// How units are.
    ///
    /// # Errors
    /// systemd does not answer.
    pub fn units(self, names: &[&str]) -> Result<Vec<UnitState>, SystemdError> {
        // A template has no state of its own.
        let instances: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| !name.contains("@."))
            .collect();
        let mut args = vec!["show", PROPERTIES, "--"];
        args.extend(&instances);
        self.run(&args).map(|text| parse_units(&text))
    }

    /// The last lines that a unit wrote, for an error.
    #[must_use]
    pub fn last_words(self, unit: &str) -> Vec<String> {
        let output = command("/usr/bin/journalctl")
            .args(["--no-pager", "--quiet", "--output=cat", "--lines=5"])
            .arg(format!("--unit={unit}"))
            .output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .env("SYSTEMD_PAGER", "");
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// Reads what `systemctl show` prints: a block of `Key=value` for each unit, with a blank line between.
#[must_use]
pub fn parse_units(text: &str) -> Vec<UnitState> {
    let blocks = text.split("\n\n").filter(|block| !block.trim().is_empty());
    blocks
        .map(|block| {
            let value = |key: &str| {
                let mut values = block
                    .lines()
                    .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
                values.next().unwrap_or_default().to_owned()
            };
            UnitState {
                name: value("Id"),
                load: value("LoadState"),
                active: value("ActiveState"),
                sub: value("SubState"),
                enabled: value("UnitFileState"),
                pid: value("MainPID").parse().ok().filter(|pid| *pid != 0),
                outdated: value("NeedDaemonReload") == "yes",
            }
        })
        .collect()
}
