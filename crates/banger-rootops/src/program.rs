//! Running one of a few fixed programs: found in fixed places, an empty environment, a deadline.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Why a program did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// It could not be run.
    #[error("failed to run {}", program.display())]
    Run {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// It did not end.
    #[error("`{}` did not end within {patience:?}", command_line(program, args))]
    Hung {
        program: PathBuf,
        args: Vec<String>,
        patience: Duration,
    },
    /// It said no.
    #[error("`{}` ended with {status}: {stderr}", command_line(program, args))]
    Failed {
        program: PathBuf,
        args: Vec<String>,
        status: ExitStatus,
        stderr: String,
    },
}

fn command_line(program: &Path, args: &[String]) -> String {
    format!("{} {}", program.display(), args.join(" "))
}

/// Looks in the places where distributions put programs for root.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];
    places
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
}

/// What it printed, once it has ended well.
pub(crate) fn run(
    program: &Path,
    args: &[&str],
    patience: Duration,
) -> Result<String, ProgramError> {
    let failed = |source| ProgramError::Run {
        program: program.to_owned(),
        source,
    };
    let owned = || args.iter().map(ToString::to_string).collect();
    // Not pipes: nobody has to read while it runs.
    let sink = |name: &str| {
        let file = memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
        file.map_err(|errno| failed(errno.into()))
    };
    let (mut stdout, mut stderr) = (sink("stdout")?, sink("stderr")?);
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().map_err(failed)?)
        .stderr(stderr.try_clone().map_err(failed)?)
        .spawn()
        .map_err(failed)?;
    let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).and_then(|pidfd| {
        let patience = Timespec::try_from(patience).ok();
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], patience.as_ref())
    });
    if ended != Ok(1) {
        // It is gone, or goes now; either way it is waited for below.
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    if ended == Ok(0) {
        return Err(ProgramError::Hung {
            program: program.to_owned(),
            args: owned(),
            patience,
        });
    }
    let read = |file: &mut File| {
        let mut bytes = vec![];
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    if status.success() {
        return read(&mut stdout).map_err(failed);
    }
    let stderr = read(&mut stderr).map_err(failed)?;
    Err(ProgramError::Failed {
        program: program.to_owned(),
        args: owned(),
        status,
        stderr: stderr.trim().chars().take(600).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn it_says_what_was_printed_or_why_not() {
        let sh = Path::new("/bin/sh");
        let long = run(sh, &["-c", "head -c 300000 /dev/zero"], PATIENCE).unwrap();
        assert_eq!(long.len(), 300_000);
        let error = run(sh, &["-c", "echo no >&2; exit 3"], PATIENCE).unwrap_err();
        assert!(error.to_string().contains("exit status: 3: no"), "{error}");
        let error = run(Path::new("/nowhere/x"), &[], PATIENCE).unwrap_err();
        assert!(matches!(error, ProgramError::Run { .. }));
    }

    #[test]
    fn one_that_hangs_is_ended() {
        let error = run(
            Path::new("/bin/cat"),
            &["/dev/zero"],
            Duration::from_millis(50),
        );
        assert!(matches!(error, Err(ProgramError::Hung { .. })), "{error:?}");
    }
}
