//! `doctor`: also where daemon or helper cannot be had, which is then one of its findings.

use std::process::{Command, Stdio};

use banger_api::{ApiError, Check, CheckResult, Doctor};
use banger_core::ErrorCode;

use super::{CommandResult, Context, blocking};
use crate::error::CommandError;
use crate::paths::Paths;
use crate::start::{self, Needs};

/// `doctor`.
pub(crate) async fn doctor(context: &Context<'_>) -> CommandResult {
    let doctor = examine(context).await?;
    context.ui.result(&doctor, shown);
    let is_bad = |check: &Check| check.result == CheckResult::Fail;
    Ok(u8::from(doctor.checks.iter().any(is_bad)))
}

fn shown(doctor: &Doctor) -> String {
    let line = |check: &Check| {
        let mark = match check.result {
            CheckResult::Pass => "pass",
            CheckResult::Warn => "warn",
            CheckResult::Fail => "FAIL",
        };
        let fix = check
            .fix
            .as_ref()
            .map(|fix| format!("\n       fix: {fix}"))
            .unwrap_or_default();
        format!("{mark}  {:<20} {}{fix}\n", check.name, check.message)
    };
    let checks: String = doctor.checks.iter().map(line).collect();
    if doctor.defaults.is_empty() {
        return checks.trim_end().to_owned();
    }
    let defaults: Vec<String> = doctor
        .defaults
        .iter()
        .map(|d| {
            let origin = d.source.as_ref().unwrap_or(&d.origin);
            format!("{}={} ({origin})", d.key, d.value)
        })
        .collect();
    format!("{checks}defaults: {}", defaults.join("  "))
}

/// The daemon's findings, with whatever of daemon and helper can be had.
async fn examine(context: &Context<'_>) -> Result<Doctor, CommandError> {
    let with_helper = match context.client(Needs::Helper).await {
        Ok(client) => return Ok(client.doctor().await?),
        Err(error) => error,
    };
    // A daemon that runs answers without a helper as well.
    match context.client(Needs::Daemon).await {
        Ok(client) => {
            let mut doctor = client.doctor().await?;
            let missing = finding("helper", &with_helper.0);
            match doctor
                .checks
                .iter_mut()
                .find(|check| check.name == "helper")
            {
                Some(check) if check.result == CheckResult::Fail => *check = missing,
                _ => {}
            }
            Ok(doctor)
        }
        Err(error) => {
            let paths = context.paths.clone();
            blocking("the examination", move || alone(&paths, &error)).await
        }
    }
}

/// What is found without a daemon; the first finding is why there is none.
fn alone(paths: &Paths, error: &CommandError) -> Doctor {
    let name = match error.0.code {
        ErrorCode::HelperUnavailable => "helper",
        _ => "daemon",
    };
    let mut checks = vec![finding(name, &error.0)];
    if name == "helper" {
        let message = "it does not run, and is started together with the helper";
        let fix = Some("what helps the helper helps it, too".to_owned());
        checks.push(check("daemon", message.to_owned(), fix));
    }
    let program = paths.program("bangerd");
    let output = Command::new(&program)
        .arg("examine")
        .args(start::places(paths))
        .stdin(Stdio::null())
        .output();
    let found = output
        .map_err(|error| error.to_string())
        .and_then(|output| {
            let doctor = serde_json::from_slice::<Doctor>(&output.stdout);
            doctor.map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())
        });
    match found {
        Ok(doctor) => checks.extend(doctor.checks),
        Err(why) => {
            let message = format!(
                "{} could not be asked about this host: {why}",
                program.display()
            );
            let fix = "build or install banger again".to_owned();
            checks.push(check("programs", message, Some(fix)));
        }
    }
    Doctor {
        checks,
        defaults: vec![],
    }
}

/// An error as a finding.
fn finding(name: &str, error: &ApiError) -> Check {
    let parts = std::iter::once(&error.message).chain(&error.causes);
    let message = parts.map(String::as_str).collect::<Vec<_>>().join(": ");
    let fix = (!error.hints.is_empty()).then(|| error.hints.join("; "));
    check(name, message, fix)
}

fn check(name: &str, message: String, fix: Option<String>) -> Check {
    Check {
        name: name.to_owned(),
        result: CheckResult::Fail,
        message,
        fix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn paths(programs: &std::path::Path) -> Paths {
        Paths {
            installed_for: None,
            runtime_dir: "/nowhere/run".into(),
            state_dir: "/nowhere/state".into(),
            config_dir: "/nowhere/config".into(),
            cache_dir: "/nowhere/cache".into(),
            helper_dir: "/nowhere/helper".into(),
            programs: programs.to_owned(),
            agent: "/nowhere/agent".into(),
            sshd: "/nowhere/sshd".into(),
        }
    }

    fn names(doctor: &Doctor) -> Vec<&str> {
        let names = doctor.checks.iter().map(|check| check.name.as_str());
        names.collect()
    }

    #[test]
    fn why_there_is_no_daemon_is_the_first_finding_and_the_rest_is_found_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("bangerd");
        let says = r#"{"checks":[{"name":"nft","result":"pass","message":"/usr/sbin/nft","fix":null}],"defaults":[]}"#;
        std::fs::write(
            &program,
            format!("#!/bin/sh\n[ $1 = examine ] && echo '{says}'\n"),
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let no_helper = CommandError::new(ErrorCode::HelperUnavailable, "sudo would ask")
            .hint("run `banger daemon start` once in a terminal");
        let found = alone(&paths(dir.path()), &no_helper);
        assert_eq!(names(&found), ["helper", "daemon", "nft"]);
        assert!(
            found.checks[0]
                .fix
                .as_ref()
                .unwrap()
                .contains("in a terminal")
        );
        let text = shown(&found);
        assert!(text.starts_with("FAIL  helper"), "{text}");
        assert!(text.ends_with("/usr/sbin/nft"), "{text}");
    }

    #[test]
    fn without_even_the_program_that_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let no_daemon = CommandError::new(ErrorCode::DaemonUnavailable, "it does not start");
        let found = alone(&paths(dir.path()), &no_daemon);
        assert_eq!(names(&found), ["daemon", "programs"]);
        assert!(
            found
                .checks
                .iter()
                .all(|check| check.result == CheckResult::Fail)
        );
    }
}
