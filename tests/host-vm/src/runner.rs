//! Runs tests, those that may two at a time: each is caught when it fails, and a host that crashed is waited for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::leash::Leash;
use crate::report::{Outcome, Report};
use crate::suite::{Company, Test, Vmm};
use crate::together::Part;

/// Why tests with Firecracker are not run without one.
const NO_FIRECRACKER: &str = "guests under Firecracker; set BANGER_TEST_FIRECRACKER to its binary";

/// How often a test that failed is run again, alone. The host's is an emulated processor, which virtualises not quite reliably: now
/// and then it resets a guest, or the host, or leaves one hanging. That says nothing of banger; so a test has failed
/// when it has failed each time, and every time is told.
const AGAIN: usize = 2;

/// How many tests run at a time that may: the host has two processors.
const LANES: usize = 2;

/// Runs the selection, and notes each outcome. Stops when the host is ended.
pub(crate) fn run(
    host: &Host,
    selection: &[Test],
    has_firecracker: bool,
    leash: &Leash,
    report: &mut Report,
) {
    let mut rest: Vec<&Test> = selection.iter().collect();
    while let Some(first) = rest.first() {
        // All that may run beside each other do so in one go, when the first of them comes.
        let company = first.company.clone();
        let batch: Vec<&Test> = match company {
            Company::None => vec![rest.remove(0)],
            _ => rest
                .extract_if(.., |test| test.company == company)
                .collect(),
        };
        let (skipped, batch): (Vec<&Test>, Vec<&Test>) = batch
            .into_iter()
            .partition(|test| test.vmm == Some(Vmm::Firecracker) && !has_firecracker);
        for test in skipped {
            let outcome = Outcome::Skipped(NO_FIRECRACKER.into());
            report.test(&test.name, Duration::ZERO, outcome);
        }
        let resets = before(host);
        let meet = matches!(company, Company::Pair(_));
        let done = side_by_side(host, &batch, meet, leash);
        let failed = done.iter().any(|(_, outcome, _)| has_failed(outcome));
        let befell = failed.then(|| mishap(host, resets));
        for (test, outcome, took) in done {
            let (outcome, took) = match befell {
                Some(befell) if has_failed(&outcome) && leash.pulled().is_none() => {
                    again(host, test, (outcome, took), befell, report)
                }
                _ => (outcome, took),
            };
            report.test(&test.name, took, outcome);
        }
    }
    report.figures(host.figures());
}

const fn has_failed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(_))
}

/// What befell a test that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    /// The host crashed under it.
    Host,
    /// A guest was reset; it may be one that the test itself has ended so.
    Guest,
    /// Nothing that is known of.
    None,
}

impl Mishap {
    const fn text(self) -> &'static str {
        match self {
            Self::Host => "the host crashed",
            Self::Guest => "a guest's kernel was reset",
            Self::None => "it failed",
        }
    }
}

/// How many guests were reset before a test; the boot that the host is in is known from now on.
fn before(host: &Host) -> usize {
    host.know_boot();
    host.resets()
}

/// What befell a test that failed, which so many resets of guests were before.
fn mishap(host: &Host, resets: usize) -> Mishap {
    if host.has_crashed() {
        Mishap::Host
    } else if host.resets() > resets {
        Mishap::Guest
    } else {
        Mishap::None
    }
}

/// Runs tests, two at a time; those that `meet` wait for each other before what they do to the host. The outcomes are in
/// the order in which they ended.
fn side_by_side<'a>(
    host: &Host,
    tests: &[&'a Test],
    meet: bool,
    leash: &Leash,
) -> Vec<(&'a Test, Outcome, Duration)> {
    // They take part from before the first begins, or that would not wait for the other.
    let part = || -> Option<Part<'_>> { meet.then(|| host.together().join()) };
    let all: Vec<_> = tests.iter().map(|test| (*test, part())).collect();
    let waiting = Mutex::new(all.into_iter());
    let done = Mutex::new(vec![]);
    let next = || lock(&waiting).next();
    std::thread::scope(|scope| {
        for _ in 0..LANES.min(tests.len()) {
            scope.spawn(|| {
                while let Some((test, part)) = next() {
                    let (outcome, took) = match leash.pulled() {
                        Some(reason) => {
                            let why = format!("not begun: {reason}");
                            (Outcome::Failed(why), Duration::ZERO)
                        }
                        None => {
                            println!("-- {}", test.name);
                            one(host, test)
                        }
                    };
                    drop(part);
                    lock(&done).push((test, outcome, took));
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test again that failed. One that the host crashed under each time has neither passed nor failed.
fn again(
    host: &Host,
    test: &Test,
    mut ended: (Outcome, Duration),
    mut befell: Mishap,
    report: &mut Report,
) -> (Outcome, Duration) {
    let mut always_crashed = befell == Mishap::Host;
    for _ in 0..AGAIN {
        if let Outcome::Failed(why) = &ended.0 {
            report.again(&test.name, befell.text(), why);
        }
        if let Err(error) = host.recover() {
            return (Outcome::Failed(format!("{error:#}")), ended.1);
        }
        let resets = before(host);
        ended = one(host, test);
        if !has_failed(&ended.0) {
            return ended;
        }
        befell = mishap(host, resets);
        always_crashed &= befell == Mishap::Host;
    }
    if always_crashed {
        ended.0 = Outcome::CutOff(befell.text().into());
    }
    ended
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
