//! Running the host's programs.

use std::io;
use std::process::{Command, Output, Stdio};

use crate::ImportError;

/// How much of what a failed program said is kept.
const TAIL: usize = 2000;

/// Runs a program to its end; `package` is where it comes from when it is missing.
pub(crate) fn run(
    command: &mut Command,
    program: &'static str,
    package: &'static str,
) -> Result<Output, ImportError> {
    let argv = std::iter::once(command.get_program()).chain(command.get_args());
    let argv: Vec<String> = argv
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output();
    let fail = |status: String, stderr: String| ImportError::Command {
        argv: argv.join(" "),
        status,
        stderr,
    };
    match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ImportError::Missing { program, package })
        }
        Err(error) => Err(fail("not started".into(), error.to_string())),
        Ok(output) if output.status.success() => Ok(output),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let from = said
                .char_indices()
                .map(|(at, _)| at)
                .find(|at| said.len() - at <= TAIL)
                .unwrap_or(0);
            Err(fail(
                output.status.to_string(),
                said[from..].trim().to_owned(),
            ))
        }
    }
}
