//! `launch [--tty] [--user NAME] -- PROGRAM ARGV0 ARGS…`: what a process does for itself before it becomes the client's program:
//! a session of its own, with `--tty` standard input as its controlling terminal, and the user. The environment and the
//! working directory are already the program's.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use banger_login::User;
use rustix::fs::{Gid, Uid};

use crate::complain;

/// As a shell has it: the program is not there.
const NOT_FOUND: u8 = 127;
/// It cannot be executed, or this could not be prepared.
const NOT_EXECUTED: u8 = 126;

/// Becomes the program; returns when that failed.
pub(crate) fn main(words: &[OsString]) -> ExitCode {
    let Some(at) = words.iter().position(|word| word == "--") else {
        complain("`launch` takes a program after `--`");
        return ExitCode::from(NOT_EXECUTED);
    };
    let [program, argv0, args @ ..] = &words[at + 1..] else {
        complain("`launch` takes a program and its own name");
        return ExitCode::from(NOT_EXECUTED);
    };
    if let Err(error) = prepare(&words[..at]) {
        complain(&format!("a program could not be prepared: {error}"));
        return ExitCode::from(NOT_EXECUTED);
    }
    let error = Command::new(program).arg0(argv0).args(args).exec();
    complain(&format!(
        "{} cannot be executed: {error}",
        program.display()
    ));
    ExitCode::from(match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTED,
    })
}

fn prepare(options: &[OsString]) -> io::Result<()> {
    rustix::process::setsid()?;
    let has = |name: &str| options.iter().any(|word| word == OsStr::new(name));
    if has("--tty") {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    if let Some(at) = options.iter().position(|word| word == "--user") {
        let name = options.get(at + 1).and_then(|name| name.to_str());
        let user = name.and_then(|name| User::find(Some(name)));
        return become_user(&user.ok_or(io::ErrorKind::NotFound)?);
    }
    Ok(())
}

/// This process has one thread, so that is the whole of it.
fn become_user(user: &User) -> io::Result<()> {
    let groups: Vec<Gid> = user.groups().into_iter().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}
