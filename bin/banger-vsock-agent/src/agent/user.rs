//! What a process does for itself before it becomes a program, since posix_spawn(3) cannot: becoming
//! another user, entering a control group.

use std::ffi::{CStr, CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use banger_login::User;

use crate::{console, sys};

/// `as-user NAME PROGRAM ARGV0 ARGS…`: becomes that user and executes the program. The environment
/// and the working directory are already the program's.
pub(crate) fn as_user(args: &[OsString]) -> ExitCode {
    let strings = args.iter().cloned().map(|arg| CString::new(arg.into_vec()));
    let Ok(strings) = strings.collect::<Result<Vec<_>, _>>() else {
        return ExitCode::from(126);
    };
    let [name, program, argv @ ..] = strings.as_slice() else {
        return ExitCode::from(126);
    };
    let name = name.to_string_lossy();
    let Some(user) = User::find(Some(&name)) else {
        console::complain(&format!("there is no user `{name}` in the guest"));
        return ExitCode::from(126);
    };
    if let Err(error) = sys::become_user(user.uid, user.gid, &user.groups()) {
        console::complain(&format!("failed to become `{name}`: {error}"));
        return ExitCode::from(126);
    }
    become_program(program, argv)
}

/// `in-group DOOR PROGRAM ARGV0 ARGS…`: enters a control group and executes the program, so that
/// nothing of it is ever outside.
pub(crate) fn in_group(args: &[OsString]) -> ExitCode {
    let strings = args.iter().cloned().map(|arg| CString::new(arg.into_vec()));
    let Ok(strings) = strings.collect::<Result<Vec<_>, _>>() else {
        return ExitCode::from(126);
    };
    let [door, program, argv @ ..] = strings.as_slice() else {
        return ExitCode::from(126);
    };
    let door = door.to_string_lossy();
    if let Err(error) = std::fs::write(&*door, "0") {
        console::complain(&format!(
            "failed to enter the control group {door}: {error}"
        ));
        return ExitCode::from(126);
    }
    become_program(program, argv)
}

fn become_program(program: &CStr, argv: &[CString]) -> ExitCode {
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).ok()
        })
        .collect();
    let mut error = sys::exec(program, argv, &env);
    if error.raw_os_error() == Some(libc::ENOEXEC) {
        // A script without `#!`: a shell's, as execvp(3) has it.
        let rest = argv.get(1..).unwrap_or_default().iter().cloned();
        let argv: Vec<CString> = [c"sh".to_owned(), program.to_owned()]
            .into_iter()
            .chain(rest)
            .collect();
        error = sys::exec(c"/bin/sh", &argv, &env);
    }
    console::complain(&format!(
        "failed to execute {}: {error}",
        program.to_string_lossy()
    ));
    ExitCode::from(126)
}
