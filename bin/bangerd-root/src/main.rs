//! `bangerd-root`, the privileged helper: accept, authenticate, dispatch to `banger-rootops`.
//!
//! Started without `--foreground` it starts itself again in a session of its own, waits until that
//! one listens, and ends: so it can be started through sudo. As a systemd service it takes the socket that
//! was opened for it, and its options from a file of root's. VMMs outlive it.

mod args;
mod clear;
mod config_file;
mod log;
mod runtime_dir;
mod server;
mod service;
mod start;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match args::Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(error) => return start::fail(2, &error),
    };
    let result = if args.clear {
        clear::clear(&args)
    } else if args.foreground {
        start::serve(&args)
    } else {
        start::in_background(&args)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => start::fail(1, error.as_ref()),
    }
}
