//! `storm KILLS [SEED]`: kills daemon and helper that many times while four clients work on VMs, and prints
//! how it went. Fails when something is lost, stuck or left behind. For `scripts/kill-storm`.
#![expect(clippy::print_stdout, reason = "the figures are its result")]

use std::process::ExitCode;
use std::time::Instant;

use banger_e2e::{Banger, storm};

fn main() -> ExitCode {
    let number = |at| std::env::args().nth(at).and_then(|text| text.parse().ok());
    let Some(kills) = number(1) else {
        println!("usage: storm KILLS [SEED]");
        return ExitCode::from(2);
    };
    let (seed, start) = (number(2).unwrap_or(1), Instant::now());
    let kills = usize::try_from(kills).unwrap_or(usize::MAX);
    let storm = storm(&Banger::from_env(), kills, 4, seed);
    println!("seed {seed}, {:.0} s", start.elapsed().as_secs_f64());
    println!("{}", storm.summary());
    for problem in &storm.problems {
        println!("  {}", problem.trim());
    }
    if storm.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
