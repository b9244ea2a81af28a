//! The agent: listens on vsock, answers questions, runs programs. A child of the boot, forked before
//! the image's init starts, and alive until the guest's end.

mod builder;
mod cgroup;
mod connection;
mod ending;
mod environment;
mod exit;
mod figures;
mod files;
mod forward;
mod kept_environment;
mod linger;
mod listeners;
mod lookup;
mod private_file;
mod ready;
mod session;
mod sessions;
mod sockets;
mod start;
mod state;
mod user;
mod watcher;

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;

use banger_guest_proto::{InitKind, Readiness};
use rustix::event::{PollFd, PollFlags, Timespec};

pub(crate) use builder::build;
pub(crate) use ending::{PROGRAMS_UNIT, end_programs};
pub(crate) use ready::{READY_UNIT, mark_ready};
pub(crate) use user::{as_user, in_group};

use crate::boot::Booted;
use crate::{console, sys};
use state::State;
use watcher::ReadyWatcher;

/// How many connections are served at a time; each has a thread.
const MAX_CONNECTIONS: usize = 256;

/// Connection threads do little on their stacks; the kernel commits only what is touched.
const STACK: usize = 256 << 10;

/// Where sessions are kept: on the root disk, which stays when the guest ends. The VM's environment is beside them.
const SESSIONS: &str = "/var/lib/banger/sessions";

/// The agent's life. Returns when it was told to end.
pub(crate) fn main(listener: OwnedFd, booted: Booted) -> ExitCode {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(NAME);
    let signals = match sys::signal_fd(&SIGNALS) {
        Ok(signals) => signals,
        Err(error) => {
            console::complain(&format!("the agent cannot watch signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let state = Arc::new(State::new(booted.init, booted.problems, SESSIONS));
    state.reached(Readiness::Reachable);
    console::say(&format!(
        "agent listening, vm {}, {} ms after the kernel started",
        booted.config.vm_id,
        state::uptime_ms()
    ));
    // Off the console, which is the image's from here on.
    leave_the_console();
    // Clients are answered while the rest is prepared.
    let watcher = ReadyWatcher::prepare(&state);
    if let Err(error) = ending::install_last_program() {
        state.problem(format!("failed to prepare the guest's end: {error}"));
    }
    serve(&listener, &signals, &state, Some(watcher));
    drop(listener);
    ending::end_all(&state);
    ExitCode::SUCCESS
}

/// What the agent listens to. SIGINT and SIGHUP are read away: they are not for a program without a
/// terminal.
const SIGNALS: [i32; 4] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    ending::END_PROGRAMS,
];

/// What `ps` shows.
const NAME: &CStr = c"banger-agent";

fn leave_the_console() {
    let flags = rustix::fs::OFlags::RDWR;
    if let Ok(null) = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

fn serve(
    listener: &OwnedFd,
    signals: &OwnedFd,
    state: &Arc<State>,
    mut watcher: Option<ReadyWatcher>,
) {
    loop {
        let mut fds = vec![
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        if let Some(fd) = watcher.as_ref().and_then(ReadyWatcher::fd) {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let longest: Option<Timespec> = watcher.as_ref().and_then(ReadyWatcher::interval);
        let _ = rustix::event::poll(&mut fds, longest.as_ref());
        let told = !fds[0].revents().is_empty();
        let called = !fds[1].revents().is_empty();
        if watcher.as_mut().is_some_and(|watcher| watcher.check(state)) {
            state.reached(Readiness::Ready);
            sessions::start_again(state);
            watcher = None;
        }
        if told {
            match sys::read_signal(signals.as_fd()) {
                Some(libc::SIGTERM) => return,
                Some(ending::END_PROGRAMS) => ending::end_all_beside(state),
                _ => {}
            }
        }
        if called {
            accept(listener, state);
        }
    }
}

fn accept(listener: &OwnedFd, state: &Arc<State>) {
    let Ok((connection, peer)) = sys::vsock_accept(listener.as_fd()) else {
        return;
    };
    // Only the host: a program in the guest, whoever's it is, would get a root shell.
    if peer != sys::HOST_CID || state.connections() >= MAX_CONNECTIONS {
        return;
    }
    let shared = Arc::clone(state);
    let guard = state.connected();
    let started = std::thread::Builder::new()
        .name("connection".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            connection::serve(connection, &shared);
            drop(guard);
        });
    if let Err(error) = started {
        state.problem(format!("failed to start a thread: {error}"));
    }
}

/// Serves one given connection, as if the guest were ready and had no init (tests).
pub(crate) fn serve_one(connection: OwnedFd) -> ExitCode {
    leave_the_console();
    let state = Arc::new(State::new(InitKind::Banger, vec![], SESSIONS));
    state.reached(Readiness::Ready);
    connection::serve(connection, &state);
    ExitCode::SUCCESS
}

/// Serves whoever connects to a Unix socket, with its sessions in that folder (tests).
pub(crate) fn serve_socket(socket: &OsStr, sessions: &OsStr) -> ExitCode {
    let Ok(listener) = UnixListener::bind(socket) else {
        return ExitCode::FAILURE;
    };
    leave_the_console();
    let state = Arc::new(State::new(InitKind::Banger, vec![], sessions));
    state.reached(Readiness::Ready);
    sessions::start_again(&state);
    for connection in listener.incoming().flatten() {
        let shared = Arc::clone(&state);
        std::thread::spawn(move || connection::serve(connection.into(), &shared));
    }
    ExitCode::SUCCESS
}
