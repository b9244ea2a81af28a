//! `soak SECONDS [SEED]`: twenty sessions write that long while their clients and the daemon are killed, and
//! prints how it went. Fails when a byte is missing, comes twice or is another. For `scripts/session-soak`.
#![expect(clippy::print_stdout, reason = "the figures are its result")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use banger_e2e::{Banger, SMALL, soak};

fn main() -> ExitCode {
    let number = |at| std::env::args().nth(at).and_then(|text| text.parse().ok());
    let Some(seconds) = number(1) else {
        println!("usage: soak SECONDS [SEED]");
        return ExitCode::from(2);
    };
    let (seed, start) = (number(2).unwrap_or(1), Instant::now());
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let soak = soak(&banger, &vm, 20, Duration::from_secs(seconds), seed);
    println!("seed {seed}, {:.0} s", start.elapsed().as_secs_f64());
    println!("{}", soak.summary());
    for problem in &soak.problems {
        println!("  {problem}");
    }
    if soak.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
