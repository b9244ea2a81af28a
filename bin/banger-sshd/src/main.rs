//! banger's ssh server, for guests whose image has none. It serves one connection, on standard input and output, and
//! listens nowhere: the host starts it in the guest over vsock for each client (`docs/adr/0019`). Its lives are told
//! apart by the first word:
//!
//! - `serve`: one ssh connection ([`server`]);
//! - `launch`: makes itself a session of its own, the right user, and then the client's program ([`launch`]);
//! - `sftp`: serves the sftp protocol, as the client's program ([`sftp`]).

mod backlog;
mod fds;
mod grace;
mod keys;
mod launch;
mod modes;
mod options;
mod outcome;
mod program;
mod request;
mod server;
mod sftp;
mod transport;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let rest = args.get(2..).unwrap_or_default();
    match args.get(1).and_then(|word| word.to_str()) {
        Some("serve") => match options::Options::parse(rest) {
            Ok(options) => server::main(&options),
            Err(what) => usage(&what),
        },
        Some("launch") => launch::main(rest),
        Some("sftp") => sftp::main(),
        Some("--version") => {
            let text = format!("banger-sshd {}\n", env!("CARGO_PKG_VERSION"));
            match std::io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        _ => usage("it is started by banger on the host, with `serve`"),
    }
}

fn usage(what: &str) -> ExitCode {
    complain(what);
    ExitCode::from(2)
}

/// A line on standard error; that nobody reads it is no failure.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "banger-sshd: {line}");
}
