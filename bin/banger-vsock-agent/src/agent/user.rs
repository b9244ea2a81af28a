//! Becoming another user, in a process of its own: posix_spawn(3) cannot.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use super::environment::User;
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
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).ok()
        })
        .collect();
    let error = sys::exec(program, argv, &env);
    console::complain(&format!(
        "failed to execute {}: {error}",
        program.to_string_lossy()
    ));
    ExitCode::from(126)
}
