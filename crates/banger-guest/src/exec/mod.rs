//! Running a program in a guest over an open connection to its agent: blocking, one thread, one
//! poll loop, so that no stream can hold up another.

mod error;
mod output;
mod pump;
pub(crate) mod signals;

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use banger_guest_proto::{ExecRequest, ExitStatus};

pub use error::ExecError;
pub use signals::Signals;

use crate::terminal::{self, RawMode};

/// The caller's side of a program's streams. Their flags (such as `O_NONBLOCK`) are left alone: they
/// are shared with whoever started the caller.
#[derive(Debug, Clone, Copy)]
pub struct ExecIo<'a> {
    /// Read from, until it ends.
    pub stdin: BorrowedFd<'a>,
    /// Standard output, with a terminal both outputs.
    pub stdout: BorrowedFd<'a>,
    /// Standard error.
    pub stderr: BorrowedFd<'a>,
    /// The program gets a terminal. When `stdin` is one it is in raw mode meanwhile.
    pub tty: bool,
}

impl ExecIo<'_> {
    /// This process's own streams.
    #[must_use]
    pub fn stdio(tty: bool) -> Self {
        Self {
            stdin: rustix::stdio::stdin(),
            stdout: rustix::stdio::stdout(),
            stderr: rustix::stdio::stderr(),
            tty,
        }
    }
}

/// Runs a program in the guest until it ends. `stream` is a dialled connection on which nothing was
/// spoken yet. Hello and request go out in one write; nothing waits for a round trip.
///
/// While it runs, SIGINT, SIGTERM, SIGHUP and SIGQUIT go to the program; with a terminal, SIGTERM
/// and SIGHUP end the call instead, since the terminal must be restored.
///
/// # Errors
/// [`ExecError`] when the program did not start, or its end is not known.
pub fn run(
    stream: UnixStream,
    request: ExecRequest,
    io: ExecIo<'_>,
) -> Result<ExitStatus, ExecError> {
    let signals = Signals::watch(io.tty).map_err(ExecError::Signals)?;
    run_heard(stream, request, io, &signals)
}

/// The same with signals that are watched since earlier: what came meanwhile goes to the program as well.
///
/// # Errors
/// See [`run`].
pub fn run_heard(
    stream: UnixStream,
    request: ExecRequest,
    io: ExecIo<'_>,
    signals: &Signals,
) -> Result<ExitStatus, ExecError> {
    let request = complete(request, io);
    let raw = io.tty && rustix::termios::isatty(io.stdin);
    let raw = raw.then(|| RawMode::enter(io.stdin)).transpose();
    let _restored_at_return = raw.map_err(|source| ExecError::Terminal(source.into()))?;
    pump::Pump::new(stream, &request, io, signals, None)?.run()
}

/// Joins the caller's streams to a program that speaks first, as servers of ssh do. Nothing is read of standard input before it
/// has: a program that was not started has taken nothing of it. Once the caller is gone (the end of its input, nobody who
/// reads standard output, or a signal), the program has `patience` to end, too.
///
/// # Errors
/// See [`run`]; [`ExecError::Overdue`] when it took longer.
pub fn bridge(
    stream: UnixStream,
    request: ExecRequest,
    io: ExecIo<'_>,
    patience: Duration,
) -> Result<ExitStatus, ExecError> {
    let signals = Signals::watch(false).map_err(ExecError::Signals)?;
    let request = complete(request, ExecIo { tty: false, ..io });
    let bridge = pump::Bridge::new(patience);
    pump::Pump::new(stream, &request, io, &signals, Some(bridge))?.run()
}

/// Fills in what the caller's terminal knows.
fn complete(mut request: ExecRequest, io: ExecIo<'_>) -> ExecRequest {
    if io.tty {
        let known = || {
            [io.stdout, io.stdin, io.stderr]
                .into_iter()
                .find_map(terminal::size_of)
        };
        let fallback = banger_guest_proto::TtySize { rows: 24, cols: 80 };
        request.tty = request.tty.or_else(known).or(Some(fallback));
        request.term = request.term.or_else(|| std::env::var("TERM").ok());
    } else {
        request.tty = None;
    }
    request
}
