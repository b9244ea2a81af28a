//! A whole Debian host in a VM: systemd, device-mapper, nested KVM. banger is put into it as a user would, and
//! tested over ssh. The machine that runs this needs no KVM of its own.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that reports to a terminal"
)]

mod artefacts;
mod cli;
mod disk;
mod emulator;
mod folder;
mod host;
mod leash;
mod machine;
mod payload;
mod qmp;
mod report;
mod runner;
mod ssh;
mod suite;
mod together;
mod wait;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::main(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("host-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}
