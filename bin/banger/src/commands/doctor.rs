//! `doctor`.

use banger_api::{Check, CheckResult};

use super::{CommandResult, Context};
use crate::start::Needs;

/// `doctor`.
pub(crate) async fn doctor(context: &Context<'_>) -> CommandResult {
    let doctor = context.client(Needs::Helper).await?.doctor().await?;
    context.ui.result(&doctor, |doctor| {
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
        let defaults: Vec<String> = doctor
            .defaults
            .iter()
            .map(|d| {
                let origin = d.source.as_ref().unwrap_or(&d.origin);
                format!("{}={} ({origin})", d.key, d.value)
            })
            .collect();
        format!("{checks}defaults: {}", defaults.join("  "))
    });
    let failed = doctor
        .checks
        .iter()
        .any(|check| check.result == CheckResult::Fail);
    Ok(u8::from(failed))
}
