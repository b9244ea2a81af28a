//! Becoming a daemon, and the first and last words.
#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "what a start has to say goes to whoever started it"
)]

use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use banger_rootops::Helper;

use crate::args::Args;
use crate::log::Log;
use crate::{runtime_dir, server, service, sys};

pub(crate) type Failure = Box<dyn Error>;

const READY: &str = "ready\n";
const ALREADY: &str = "already running\n";

/// Says what failed and why, and gives the exit code.
pub(crate) fn fail(code: u8, error: &dyn Error) -> ExitCode {
    let causes = std::iter::successors(error.source(), |cause| Error::source(*cause));
    let chain: String = causes.map(|cause| format!(": {cause}")).collect();
    eprintln!("bangerd-root: {error}{chain}");
    ExitCode::from(code)
}

/// Starts the same program in the background, waits until it listens, and prints `ready PID`.
pub(crate) fn in_background(args: &Args) -> Result<(), Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(&args.given)
        .arg("--foreground")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("the background process has no output".into());
    };
    let mut said = String::new();
    stdout.read_to_string(&mut said)?;
    if said == READY {
        println!("ready {}", child.id());
        return Ok(());
    }
    if said == ALREADY {
        print!("{said}");
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

/// Serves in this process; says so on standard output and lets go of it when it listens.
pub(crate) fn serve(args: &Args) -> Result<(), Failure> {
    let passed = sys::close_inherited(service::has_socket());
    if !rustix::process::geteuid().is_root() {
        return Err("it must be started as root".into());
    }
    // A session's leader already, when a supervisor started it: that is fine too.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::chdir("/")?;
    // Before the first thread, so that all have them blocked.
    let signals = sys::Signals::block()?;
    let dir = &args.config.runtime_dir;
    runtime_dir::ensure(dir)?;
    let Some(_lock) = runtime_dir::lock(dir)? else {
        return say(ALREADY);
    };
    let log = Log::open(&dir.join("helper.log"))?;
    let helper = Arc::new(Mutex::new(Helper::open(args.config.clone())?));
    let activated = passed.is_some();
    let listener = match passed {
        Some(socket) => {
            service::check_socket(&socket)?;
            socket
        }
        None => server::listener(&args.config)?,
    };
    log.line(format_args!("pid={} started", std::process::id()));
    server::guard_in_background(Arc::clone(&helper), log.clone())?;
    server::accept_in_background(listener, Arc::clone(&helper), log.clone())?;
    service::say_ready()?;
    say(READY)?;
    silence()?;
    signals.wait();
    // A request that is being worked on is finished first; the lock is kept to the end.
    let _busy = helper.lock().unwrap_or_else(PoisonError::into_inner);
    log.line(format_args!("pid={} stopped", std::process::id()));
    if !activated {
        std::fs::remove_file(dir.join(server::SOCKET))?;
    }
    Ok(())
}

fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Standard streams go nowhere from here on: whoever waits for them is let go.
fn silence() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    rustix::stdio::dup2_stderr(null.as_fd())?;
    Ok(())
}
