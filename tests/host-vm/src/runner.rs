//! Runs tests one after the other: each is caught when it fails, and the host is asked between them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::leash::Leash;
use crate::report::{Outcome, Report};
use crate::suite::Test;

/// Runs the selection, and notes each outcome. Stops when the host is ended.
pub(crate) fn run(host: &Host, selection: &[Test], leash: &Leash, report: &mut Report) {
    for test in selection {
        if let Some(reason) = leash.pulled() {
            report.test(&test.name, Duration::ZERO, Outcome::Failed(format!("not begun: {reason}")));
            continue;
        }
        if let Some(why) = &test.skip {
            report.test(&test.name, Duration::ZERO, Outcome::Skipped(why.clone()));
            continue;
        }
        println!("-- {}", test.name);
        let start = Instant::now();
        let outcome = match catch_unwind(AssertUnwindSafe(|| (test.run)(host))) {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(error)) => Outcome::Failed(format!("{error:?}")),
            Err(_) => Outcome::Failed("it panicked; see above".into()),
        };
        report.test(&test.name, start.elapsed(), outcome);
    }
}
