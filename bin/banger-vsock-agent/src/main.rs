//! banger's program in the guest. One static binary with several lives, told apart by how it is
//! started:
//!
//! - process 1, from the initramfs: [`boot`] prepares the guest, forks the [`agent`], and hands over
//!   to the image's init, or stays as process 1 ([`pid1`]) when the image has none;
//! - process 1, as `/shutdown`: systemd executes it last of all ([`farewell`]);
//! - `modprobe`: the kernel calls it where the image has none ([`modprobe`]);
//! - `mark-ready`: a unit calls it when the image's default target is reached ([`agent::ready`]);
//! - `end-programs`: a unit calls it when the guest's end begins ([`agent::end_programs`]);
//! - `connect`: joins standard input and output to a port of the guest ([`connect`]);
//! - `as-user`: becomes another user and executes a program ([`agent::user`]);
//! - `build`: what an image build asks of its builder ([`agent::build`]);
//! - `in-group`: enters a control group and executes a program ([`agent::in_group`]);
//! - `read-only` and `writable`: a folder that may only be read, and no more ([`read_only`]);
//! - `serve`: serves one connection, given as standard input, or `serve SOCKET FOLDER` those of a Unix
//!   socket, with its sessions in a folder (tests).

mod agent;
mod boot;
mod connect;
mod console;
mod farewell;
mod modprobe;
mod pid1;
mod read_only;
mod root;
mod sys;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let name = args.first().map(Path::new).and_then(Path::file_name);
    let name = name.and_then(|name| name.to_str()).unwrap_or_default();
    let word = args.get(1).and_then(|word| word.to_str());
    let first_process = std::process::id() == 1;
    match (name, word) {
        ("modprobe", _) => modprobe::main(&args[1..]),
        ("shutdown", verb) if first_process => farewell::after_systemd(verb.unwrap_or("poweroff")),
        _ if first_process => boot::main(),
        (_, Some("--version")) => {
            let text = format!("banger-vsock-agent {}\n", env!("CARGO_PKG_VERSION"));
            match rustix::io::write(rustix::stdio::stdout(), text.as_bytes()) {
                Ok(_) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        (_, Some("mark-ready")) => agent::mark_ready(),
        (_, Some("end-programs")) => agent::end_programs(),
        (_, Some("connect")) => connect::main(&args[2..]),
        (_, Some("as-user")) => agent::as_user(&args[2..]),
        (_, Some("build")) => agent::build(&args[2..]),
        (_, Some("in-group")) => agent::in_group(&args[2..]),
        (_, Some("read-only")) => read_only::make(&args[2..]),
        (_, Some("writable")) => read_only::undo(&args[2..]),
        (_, Some("serve")) if args.len() == 4 => agent::serve_socket(&args[2], &args[3]),
        (_, Some("serve")) => match rustix::stdio::stdin().as_fd().try_clone_to_owned() {
            Ok(connection) => agent::serve_one(connection),
            Err(_) => ExitCode::FAILURE,
        },
        _ => {
            console::complain(
                "banger-vsock-agent is started by the guest's kernel; it takes only --version",
            );
            ExitCode::from(2)
        }
    }
}
