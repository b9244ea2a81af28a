//! `bangerd`, the owner's daemon: configuration, wiring, listening. Decisions are the engine's.

mod adapters;
mod args;
mod config;
mod convert;
mod doctor;
mod keys;
mod listen;
mod routes;
mod sizes;
mod start;
mod state;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    start::run(args)
}
