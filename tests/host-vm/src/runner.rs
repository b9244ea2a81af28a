//! Runs tests, those that may two at a time: each is caught when it fails, and a host that crashed is waited for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::leash::Leash;
use crate::report::{Outcome, Report};
use crate::suite::{Test, Vmm};

/// Why tests with Firecracker are not run without one.
const NO_FIRECRACKER: &str = "guests under Firecracker; set BANGER_TEST_FIRECRACKER to its binary";

/// How a guest ends that the processor has reset. As the host's is an emulated processor, which virtualises not quite
/// reliably, this happens now and then early in a boot, and sometimes to the host itself. It says nothing of
/// banger: a test that it cut off is run again, and that is told.
const RESET: &str = "the VMM ended without a farewell from the guest [boot_failed]";

/// How often a test is run again.
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
        let batch: Vec<&Test> = match first.beside {
            true => rest.extract_if(.., |test| test.beside).collect(),
            false => vec![rest.remove(0)],
        };
        let (skipped, batch): (Vec<&Test>, Vec<&Test>) = batch
            .into_iter()
            .partition(|test| test.vmm == Some(Vmm::Firecracker) && !has_firecracker);
        for test in skipped {
            let outcome = Outcome::Skipped(NO_FIRECRACKER.into());
            report.test(&test.name, Duration::ZERO, outcome);
        }
        let panics = host.panics();
        let done = side_by_side(host, &batch, leash);
        let crashed = host.panics() > panics && leash.pulled().is_none();
        let recovered = if crashed { host.recover() } else { Ok(()) };
        for (test, outcome, took) in done {
            let why = match &outcome {
                Outcome::Failed(_) if crashed => Some("the host's kernel panicked"),
                Outcome::Failed(why) if why.contains(RESET) => Some("a guest's kernel was reset"),
                _ => None,
            };
            let (outcome, took) = match (why, &recovered) {
                (None, _) => (outcome, took),
                (Some(why), Ok(())) => again(host, test, why, report),
                (Some(_), Err(error)) => (Outcome::Failed(format!("{error:#}")), took),
            };
            report.test(&test.name, took, outcome);
        }
    }
    report.figures(host.figures());
}

/// Runs tests, two at a time; the outcomes are in the order in which they ended.
fn side_by_side<'a>(
    host: &Host,
    tests: &[&'a Test],
    leash: &Leash,
) -> Vec<(&'a Test, Outcome, Duration)> {
    let waiting = Mutex::new(tests.iter().copied());
    let done = Mutex::new(vec![]);
    let next = || lock(&waiting).next();
    std::thread::scope(|scope| {
        for _ in 0..LANES.min(tests.len()) {
            scope.spawn(|| {
                while let Some(test) = next() {
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

/// Runs a test again that was cut off, until it is not.
fn again(host: &Host, test: &Test, why: &str, report: &mut Report) -> (Outcome, Duration) {
    let mut ended = (Outcome::Failed(why.to_owned()), Duration::ZERO);
    for _ in 0..AGAIN {
        report.again(&test.name, why);
        ended = one(host, test);
        if !matches!(&ended.0, Outcome::Failed(why) if why.contains(RESET)) {
            break;
        }
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
