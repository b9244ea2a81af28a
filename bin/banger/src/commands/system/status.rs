//! `system status`. Needs no root.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use banger_install::{
    CACHE_DIR, ROOT_CONFIG, RUNTIME_DIR, STATE_DIR, Status, Systemctl, UNITS, UnitState, drift,
    judge, lib_dir,
};

use super::{installed, need_systemd, systemd};
use crate::commands::CommandResult;
use crate::commands::show::table;
use crate::ui::Ui;

/// `system status`.
pub(crate) fn status(ui: &Ui) -> CommandResult {
    let record = installed()?;
    need_systemd()?;
    let units = Systemctl.units(UNITS).map_err(|error| systemd(&error))?;
    let lib = lib_dir(&record.prefix);
    let programs = [
        ("bangerd.service", lib.join("bangerd")),
        ("bangerd-root.service", lib.join("bangerd-root")),
    ];
    let stale: Vec<&str> = programs
        .iter()
        .filter(|(unit, program)| runs_another(&units, unit, program))
        .map(|(unit, _)| *unit)
        .collect();
    let drift = drift(Path::new("/"), &record);
    let status = judge(record, units, drift, &stale);
    ui.result(&status, describe);
    Ok(u8::from(!status.healthy))
}

/// Whether the unit's process runs another file than the installed one, as far as the caller may see.
fn runs_another(units: &[UnitState], unit: &str, program: &PathBuf) -> bool {
    let pid = units
        .iter()
        .find(|state| state.name == unit)
        .and_then(|state| state.pid);
    let Some(running) = pid.and_then(|pid| fs::metadata(format!("/proc/{pid}/exe")).ok()) else {
        return false;
    };
    fs::metadata(program)
        .is_ok_and(|installed| (installed.dev(), installed.ino()) != (running.dev(), running.ino()))
}

fn describe(status: &Status) -> String {
    let record = &status.record;
    let network = &record.network;
    let rows = [
        (
            "version",
            format!("{} (installed {})", record.version, record.installed_at),
        ),
        (
            "owner",
            format!("{} (uid {})", record.owner.name, record.owner.uid),
        ),
        (
            "programs",
            format!(
                "{}, {}",
                record.cli().display(),
                lib_dir(&record.prefix).display()
            ),
        ),
        (
            "vmm",
            if record.firecracker {
                "Firecracker, QEMU"
            } else {
                "QEMU"
            }
            .to_owned(),
        ),
        (
            "network",
            format!(
                "{} {}/{}",
                network.bridge, network.bridge_ip, network.prefix_len
            ),
        ),
        (
            "config",
            format!(
                "{ROOT_CONFIG}, {}",
                record.owner.home.join(".config/banger").display()
            ),
        ),
        ("data", format!("{STATE_DIR}, {CACHE_DIR}")),
        ("socket", format!("{RUNTIME_DIR}/bangerd.sock")),
    ];
    let mut text: String = rows
        .iter()
        .map(|(key, value)| format!("{key:<9} {value}\n"))
        .collect();
    let units = status.units.iter().map(|unit| {
        let pid = unit.pid.map(|pid| pid.to_string()).unwrap_or_default();
        vec![
            unit.name.clone(),
            format!("{} ({})", unit.active, unit.sub),
            unit.enabled.clone(),
            pid,
        ]
    });
    text += &format!(
        "\n{}\n",
        table(&["UNIT", "STATE", "AT BOOT", "PID"], units.collect())
    );
    if status.healthy {
        text += &format!(
            "\nhealthy; all {} files are as installed",
            record.files.len()
        );
        return text;
    }
    text += "\nproblems\n";
    for problem in &status.problems {
        text += &format!("  {problem}\n");
    }
    text + "hint: `sudo banger system restart` for units; installing again for files"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::{assert_documented, example};
    use banger_install::{Drift, DriftKind};

    #[test]
    fn the_table_and_the_documented_json() {
        let documented = example("status");
        let units = serde_json::from_value(documented["units"].clone());
        let status = Status {
            healthy: false,
            problems: vec!["/usr/local/bin/banger was changed".to_owned()],
            record: serde_json::from_value(documented).unwrap(),
            units: units.unwrap(),
            drift: vec![Drift {
                path: "/usr/local/bin/banger".into(),
                kind: DriftKind::Changed,
            }],
        };
        assert_documented("status", &serde_json::to_value(&status).unwrap());
        insta::assert_snapshot!(describe(&status));
    }
}
