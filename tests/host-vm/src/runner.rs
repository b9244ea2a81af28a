//! Runs tests one after the other: each is caught when it fails, and the host is asked between them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::leash::Leash;
use crate::report::{Outcome, Report};
use crate::suite::{Test, Vmm};

/// Why tests with Firecracker are not run without one.
const NO_FIRECRACKER: &str = "guests under Firecracker; set BANGER_TEST_FIRECRACKER to its binary";

/// Runs the selection, and notes each outcome. Stops when the host is ended.
pub(crate) fn run(
    host: &Host,
    selection: &[Test],
    has_firecracker: bool,
    leash: &Leash,
    report: &mut Report,
) {
    for test in selection {
        if let Some(reason) = leash.pulled() {
            report.test(
                &test.name,
                Duration::ZERO,
                Outcome::Failed(format!("not begun: {reason}")),
            );
            continue;
        }
        if test.vmm == Some(Vmm::Firecracker) && !has_firecracker {
            report.test(
                &test.name,
                Duration::ZERO,
                Outcome::Skipped(NO_FIRECRACKER.into()),
            );
            continue;
        }
        println!("-- {}", test.name);
        let panics = host.panics();
        let (mut outcome, mut took) = one(host, test);
        // Emulated, the processor's own virtualisation now and then takes the host's kernel down. That says nothing
        // of banger; what a test that went on over it says is kept.
        if outcome != Outcome::Passed && host.panics() > panics {
            report.crash(&test.name);
            match host.recover() {
                Ok(()) => (outcome, took) = one(host, test),
                Err(error) => outcome = Outcome::Failed(format!("{error:#}")),
            }
        }
        report.test(&test.name, took, outcome);
    }
    report.figures(host.figures());
}

/// Runs a test to its end.
fn one(host: &Host, test: &Test) -> (Outcome, Duration) {
    let start = Instant::now();
    let outcome = match catch_unwind(AssertUnwindSafe(|| (test.run)(host))) {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(error)) => Outcome::Failed(format!("{error:#}")),
        Err(_) => Outcome::Failed("it panicked; see above".into()),
    };
    (outcome, start.elapsed())
}
