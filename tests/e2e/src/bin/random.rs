//! `random SECONDS [SEED]`: asks random things of VMs with real guests, lets guests, VMMs and daemons end at
//! random, compares with a model, and prints how it went. For `scripts/random-life`.
#![expect(clippy::print_stdout, reason = "the figures are its result")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use banger_e2e::{Banger, random};

fn main() -> ExitCode {
    let number = |at| std::env::args().nth(at).and_then(|text| text.parse().ok());
    let Some(seconds) = number(1) else {
        println!("usage: random SECONDS [SEED]");
        return ExitCode::from(2);
    };
    let (seed, start) = (number(2).unwrap_or(1), Instant::now());
    let random = random(&Banger::from_env(), Duration::from_secs(seconds), seed);
    println!("seed {seed}, {:.0} s", start.elapsed().as_secs_f64());
    println!("{}", random.summary());
    for problem in &random.problems {
        println!("  {}", problem.trim());
    }
    if random.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
