//! `bangerd`, the owner's daemon: configuration, wiring, listening. Decisions are the engine's.

mod adapters;
mod args;
mod build_service;
mod building;
mod builds;
mod catalogs;
mod config;
mod convert;
mod doctor;
mod file_sync;
mod host_vmms;
mod keeping;
mod keys;
mod limits;
mod listen;
mod ports;
mod pulls;
mod root_config;
mod routes;
mod seeds;
mod sizes;
mod stale;
mod start;
mod state;
mod stats;
mod stores;
mod unpulled;
mod vm_folder;
mod vmm_choice;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let mut words = std::env::args_os().peekable();
    let program = words.next();
    if words.peek().is_some_and(|word| word == "build") {
        return build_service::run(program.into_iter().chain(words.skip(1)));
    }
    if words.peek().is_some_and(|word| word == "examine") {
        return doctor::alone::run(program.into_iter().chain(words.skip(1)));
    }
    let args = args::Args::parse();
    start::run(args)
}
