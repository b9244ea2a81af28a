//! `boots COUNT`: boots a VM of the minimal image that many times, with a client that dials from the first
//! millisecond, and prints how many answered and how soon. Fails when one did not. For `scripts/boots`.
#![expect(clippy::print_stdout, reason = "the figures are its result")]

use std::process::ExitCode;

use banger_e2e::{Banger, boots};

fn main() -> ExitCode {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok());
    let Some(count) = count else {
        println!("usage: boots COUNT");
        return ExitCode::from(2);
    };
    let banger = Banger::from_env();
    let vm = banger.vm(&["--no-start", "--image", "debian-minimal", "--memory", "256"]);
    let boots = boots(&banger, &vm, count);
    println!("{}", boots.summary());
    for why in &boots.unanswered {
        println!("  {}", why.trim());
    }
    if boots.unanswered.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
