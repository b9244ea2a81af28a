//! A guest that hangs as it boots, and whose kernel says so or has no clock any more by which it could. Under emulation
//! with several processors that happens now and then, to a guest that nobody did anything to; it never comes back.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::ports::Drives;

/// From here on a processor that is stuck is stuck for good. The kernel's watchdog reports from 20 s on, and again
/// and again (`kernel/watchdog.c`, `watchdog_timer_fn`); a guest that the host let wait is late just once.
const STUCK_SECONDS: u64 = 40;
/// How often a console is looked at while its guest boots.
const LOOK: Duration = Duration::from_secs(2);
/// Nobody has heard anything of a guest for so long that it hangs. Before its kernel has come as far as the agent it takes a second or
/// some, and from there on the agent tells every 20 s that it is still booting.
const SILENT: Duration = Duration::from_secs(60);

/// How a guest hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hang {
    /// Its kernel says so, in this line.
    Said(String),
    /// It says nothing at all.
    Silent,
}

impl std::fmt::Display for Hang {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Said(line) => f.write_str(line),
            Self::Silent => write!(f, "its console was silent for {} s", SILENT.as_secs()),
        }
    }
}

/// The kernel's report of a processor that is stuck for good, among the last lines of a console.
#[must_use]
pub fn locked_up(console_tail: &[String]) -> Option<&str> {
    let lines = || console_tail.iter().rev().map(String::as_str);
    let watchdogs =
        lines().find(|line| stuck_seconds(line).is_some_and(|seconds| seconds >= STUCK_SECONDS));
    watchdogs.or_else(|| {
        let mut seen = HashSet::new();
        lines().find(|line| stalled(line).is_some_and(|report| !seen.insert(report)))
    })
}

/// `[   96.999113] rcu: \t1-...0: (3 ticks this GP) idle=4c3c/0/0x1 softirq=1523/1525 fqs=3591`: what RCU waits for, a
/// processor with its counts, without how often it has asked. A minute lies between two such reports
/// (Documentation/RCU/stallwarn.rst): who has the same counts in both has not had a single tick meanwhile.
fn stalled(line: &str) -> Option<&str> {
    let (_, report) = line.split_once("rcu: ")?;
    let (report, _) = report.split_once(" fqs=")?;
    report.contains(" ticks this GP) idle=").then_some(report)
}

/// `[  268.462887] watchdog: BUG: soft lockup - CPU#1 stuck for 246s! [systemd:1]`
fn stuck_seconds(line: &str) -> Option<u64> {
    let (_, report) = line.split_once("BUG: soft lockup - CPU#")?;
    let (_, seconds) = report.split_once(" stuck for ")?;
    seconds.split_once("s!")?.0.parse().ok()
}

/// Resolves when the guest's kernel says that it hangs, or, where `silence` is a sign of it, says nothing. Cancel-safe: it
/// only looks.
pub(crate) async fn hangs(drives: &dyn Drives, vm: &banger_core::VmId, silence: bool) -> Hang {
    let mut last = (Instant::now(), vec![]);
    loop {
        tokio::time::sleep(LOOK).await;
        let tail = drives.console_tail(vm).await;
        if let Some(report) = locked_up(&tail) {
            return Hang::Said(report.to_owned());
        }
        if tail != last.1 {
            last = (Instant::now(), tail);
        } else if silence && last.0.elapsed() >= SILENT {
            return Hang::Silent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> bool {
        locked_up(&["[    2.8] before".into(), line.into(), "after".into()]).is_some()
    }

    #[test]
    fn a_processor_that_is_stuck_for_good_is_told_from_one_that_was_late() {
        let report = |seconds: u32| {
            format!(
                "[  68.462887] watchdog: BUG: soft lockup - CPU#1 stuck for {seconds}s! [systemd:1]"
            )
        };
        assert!(!found(&report(22)));
        assert!(found(&report(45)));
    }

    #[test]
    fn one_that_has_had_no_tick_between_two_reports_is_stuck_too() {
        let report = |ticks: u32, asked: u32| {
            format!(
                "[   33.970365] rcu: \t1-...0: ({ticks} ticks this GP) idle=4c3c/0/0x1 softirq=1523/1525 fqs={asked}"
            )
        };
        let head =
            "[   33.947114] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:".to_owned();
        let tail = |reports: &[String]| -> Vec<String> {
            let with_head = |report: &String| [head.clone(), report.clone()];
            reports.iter().flat_map(with_head).collect()
        };
        let late = tail(&[report(3, 1080), report(17, 3591)]);
        assert_eq!(locked_up(&late), None, "it goes on, slowly");
        assert_eq!(locked_up(&tail(&[report(3, 1080)])), None);
        let stuck = tail(&[report(3, 1080), report(3, 3591)]);
        assert!(locked_up(&stuck).is_some_and(|line| line.contains("3 ticks")));
        let other = report(3, 3591).replace("\t1-", "\t0-");
        assert_eq!(locked_up(&tail(&[report(3, 1080), other])), None);
    }

    #[test]
    fn what_is_no_report_is_none() {
        for line in [
            "",
            "watchdog: BUG: soft lockup",
            "watchdog: BUG: soft lockup - CPU#1 stuck for ages! [a:1]",
            "watchdog: BUG: soft lockup - CPU#1 stuck for -45s! [a:1]",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 99999999999999999999999s! [a:1]",
            "stuck for 60s!",
        ] {
            assert!(!found(line), "{line}");
        }
        assert_eq!(locked_up(&[]), None);
    }
}
