//! banger's ssh server, for guests whose image has none. It serves one connection, on standard input and output, and
//! listens nowhere: the host starts it in the guest over vsock for each client (`docs/adr/0019`). Its lives are told
//! apart by the first word:
//!
//! - `serve`: one ssh connection ([`server`]);
//! - `settle PLACE`: gives its own file, which was brought to the guest, its name, and serves;
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
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let rest = args.get(2..).unwrap_or_default();
    match args.get(1).and_then(|word| word.to_str()) {
        Some("serve") => match options::Options::parse(rest) {
            Ok(options) => server::main(&options),
            Err(what) => usage(&what),
        },
        Some("settle") if rest.len() == 1 => {
            settle(Path::new(&rest[0]));
            server::main(&options::Options::default())
        }
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

/// At once: another client finds all of the program there, or nothing. Whoever came first is replaced by its like.
fn settle(place: &Path) {
    let settled = std::env::current_exe().and_then(|own| std::fs::rename(own, place));
    if let Err(error) = settled {
        complain(&format!("{} cannot be made: {error}", place.display()));
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
