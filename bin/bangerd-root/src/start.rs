//! Becoming a daemon, and the first and last words.
#![expect(
    clippy::print_stderr,
    reason = "what a failed start says goes to whoever started it"
)]

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};

use banger_rootops::Helper;

use crate::args::Args;
use crate::{runtime_dir, server};

type Failure = Box<dyn Error>;

/// Says what failed and why, and gives the exit code.
pub(crate) fn fail(code: u8, error: &dyn Error) -> ExitCode {
    let causes = std::iter::successors(error.source(), |cause| Error::source(*cause));
    let chain: String = causes.map(|cause| format!(": {cause}")).collect();
    eprintln!("bangerd-root: {error}{chain}");
    ExitCode::from(code)
}

/// Starts the same program in the background and waits until it listens.
pub(crate) fn in_background(args: &Args) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err("it must be started as root".into());
    }
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(&args.given)
        .arg("--foreground")
        .env_clear()
        .current_dir("/");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("the background process has no output".into());
    };
    let mut said = String::new();
    stdout.read_to_string(&mut said)?;
    if said == "ready" {
        return Ok(());
    }
    let mut why = String::new();
    stderr.read_to_string(&mut why)?;
    child.wait()?;
    Err(why
        .trim()
        .trim_start_matches("bangerd-root: ")
        .to_owned()
        .into())
}

/// Serves in this process; says `ready` on standard output and closes both when it listens.
pub(crate) fn serve(args: &Args) -> Result<(), Failure> {
    let config = &args.config;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Already a session's leader when it was started by hand: that is fine too.
    let _ = rustix::process::setsid();
    runtime_dir::ensure(&config.runtime_dir)?;
    let Some(_lock) = runtime_dir::lock(&config.runtime_dir)? else {
        io::stdout().write_all(b"ready")?;
        return Ok(());
    };
    let mut helper = Helper::open(config.clone())?;
    let listener = server::listener(config)?;
    io::stdout().write_all(b"ready")?;
    io::stdout().flush()?;
    silence()?;
    server::run(&listener, &mut helper, config)?;
    Ok(())
}

/// Standard streams go nowhere from here on: whoever waits for them is let go.
fn silence() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    rustix::stdio::dup2_stderr(null.as_fd())?;
    Ok(())
}
