//! Whether what was installed still is what is there, and whether it works.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::write::{below, digest};
use crate::{Progress, Record};

/// A unit as systemd has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// Its name.
    pub name: String,
    /// `loaded`, `not-found`, …
    pub load: String,
    /// `active`, `inactive`, `failed`, …
    pub active: String,
    /// `running`, `listening`, …
    pub sub: String,
    /// `enabled`, `static`, …
    pub enabled: String,
    /// Its main process.
    pub pid: Option<u32>,
    /// Whether systemd runs an older text of it.
    pub outdated: bool,
}

/// How a file differs from what was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// Not there.
    Missing,
    /// Other content.
    Changed,
    /// Other permissions, or not root's.
    Permissions,
    /// It cannot be read.
    Unreadable,
}

/// A file that is not as it was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Which.
    pub path: PathBuf,
    /// How.
    pub kind: DriftKind,
}

/// What `system status` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Nothing is wrong.
    pub healthy: bool,
    /// What is.
    pub problems: Vec<String>,
    /// What was installed.
    #[serde(flatten)]
    pub record: Record,
    /// The units.
    pub units: Vec<UnitState>,
    /// Files that differ.
    pub drift: Vec<Drift>,
}

/// Compares every file with the record.
#[must_use]
pub fn drift(root: &Path, record: &Record) -> Vec<Drift> {
    let differs = |file: &crate::InstalledFile| {
        let path = below(root, &file.path);
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(DriftKind::Missing);
            }
            Err(_) => return Some(DriftKind::Unreadable),
            Ok(metadata) => metadata,
        };
        let Ok(content) = fs::read(&path) else {
            return Some(DriftKind::Unreadable);
        };
        if !metadata.is_file() || file.sha256.as_ref().is_some_and(|d| *d != digest(&content)) {
            return Some(DriftKind::Changed);
        }
        let permissions = metadata.uid() != 0 || metadata.mode() & 0o7777 != file.mode;
        permissions.then_some(DriftKind::Permissions)
    };
    let with_path = |file: &crate::InstalledFile| {
        differs(file).map(|kind| Drift {
            path: file.path.clone(),
            kind,
        })
    };
    record.files.iter().filter_map(with_path).collect()
}

/// Decides whether all is well. `stale` names units whose process runs another file than the installed one.
#[must_use]
pub fn judge(record: Record, units: Vec<UnitState>, drift: Vec<Drift>, stale: &[&str]) -> Status {
    let mut problems = vec![];
    if record.progress == Progress::Begun {
        problems.push("the installation was begun and not finished: install again".to_owned());
    }
    for unit in &units {
        let name = &unit.name;
        if unit.load != "loaded" {
            problems.push(format!("{name} is {}", or_unknown(&unit.load)));
            continue;
        }
        // The helper comes when it is asked, and the slice when something is in it.
        let on_demand = matches!(name.as_str(), "bangerd-root.service" | "banger.slice");
        let good = unit.active == "active" || (on_demand && unit.active == "inactive");
        if !good {
            problems.push(format!("{name} is {} ({})", unit.active, unit.sub));
        }
        if unit.enabled == "disabled" {
            problems.push(format!("{name} is not started at boot"));
        }
        if unit.outdated {
            problems.push(format!("{name} has changed since systemd read it"));
        }
        if stale.contains(&name.as_str()) {
            problems.push(format!("{name} runs an older build than is installed"));
        }
    }
    for one in &drift {
        let how = match one.kind {
            DriftKind::Missing => "is missing",
            DriftKind::Changed => "is not what was installed",
            DriftKind::Permissions => "has other permissions than were installed",
            DriftKind::Unreadable => "cannot be read",
        };
        problems.push(format!("{} {how}", one.path.display()));
    }
    Status {
        healthy: problems.is_empty(),
        problems,
        record,
        units,
        drift,
    }
}

fn or_unknown(text: &str) -> &str {
    match text {
        "" => "unknown",
        text => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;
    use crate::{Content, Plan, PlannedFile, parse_units, write};

    fn record() -> Record {
        Record {
            progress: Progress::Complete,
            ..Record::begin(&example(), vec![])
        }
    }

    const SHOWN: &str = "Id=bangerd.service\nLoadState=loaded\nActiveState=active\nSubState=running\n\
        UnitFileState=enabled\nMainPID=7\nNeedDaemonReload=no\n\n\
        Id=bangerd-root.service\nLoadState=loaded\nActiveState=inactive\nSubState=dead\n\
        UnitFileState=static\nMainPID=0\nNeedDaemonReload=no\n";

    #[test]
    fn what_systemd_says_is_read_and_a_helper_that_waits_is_well() {
        let units = parse_units(SHOWN);
        assert_eq!((units[0].pid, units[1].pid), (Some(7), None));
        let status = judge(record(), units, vec![], &[]);
        assert!(status.healthy, "{:?}", status.problems);
    }

    #[test]
    fn every_kind_of_trouble_is_said() {
        let mut units = parse_units(SHOWN);
        units[0].active = "failed".into();
        units[0].enabled = "disabled".into();
        units[0].outdated = true;
        units[1].load = "not-found".into();
        let drift = vec![Drift {
            path: "/usr/bin/banger".into(),
            kind: DriftKind::Missing,
        }];
        let mut begun = record();
        begun.progress = Progress::Begun;
        let status = judge(begun, units, drift, &["bangerd.service"]);
        assert!(!status.healthy);
        assert_eq!(status.problems.len(), 7, "{:#?}", status.problems);
    }

    #[test]
    fn files_are_compared() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED(root): installed files must be root's");
            return;
        }
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| PlannedFile {
            path: format!("/{name}").into(),
            mode: 0o644,
            content: Content::Text(name.to_owned()),
        };
        let plan = Plan {
            folders: vec![],
            files: ["same", "gone", "other", "open", "link"].map(file).to_vec(),
        };
        let mut record = record();
        record.files = write(dir.path(), &plan).unwrap();
        assert_eq!(drift(dir.path(), &record), vec![]);
        let at = |name: &str| dir.path().join(name);
        fs::remove_file(at("gone")).unwrap();
        fs::write(at("other"), "x").unwrap();
        fs::set_permissions(at("open"), fs::Permissions::from_mode(0o666)).unwrap();
        fs::remove_file(at("link")).unwrap();
        std::os::unix::fs::symlink("same", at("link")).unwrap();
        let found: Vec<DriftKind> = drift(dir.path(), &record)
            .into_iter()
            .map(|drift| drift.kind)
            .collect();
        use DriftKind::{Changed, Missing, Permissions};
        assert_eq!(found, [Missing, Changed, Permissions, Changed]);
    }
}
