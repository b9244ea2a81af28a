//! The thread that keeps one session: puts its output into its log, ends it when somebody asks, starts
//! it again when it failed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_guest_proto::{AgentMessage, ExitStatus, MAX_DATA, RestartPolicy, SessionState, Stream};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::entry::{Entry, Running};
use super::record::now_ms;
use crate::agent::exit::exit_status;
use crate::agent::session;
use crate::agent::start::{self, Program};
use crate::agent::state::State;

/// How long what a program leaves behind has between SIGTERM and SIGKILL.
const LEFT_BEHIND: Duration = Duration::from_secs(2);

/// How often what is left behind is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How much sooner than the agent a program may hear of the guest's end.
const MOMENT: Duration = Duration::from_millis(300);

/// The pause before a first restart; doubled for each that follows soon.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A program that ran this long had started well.
const WELL: Duration = Duration::from_secs(60);

/// Keeps the session until its end.
pub(super) fn keep(entry: &Arc<Entry>, state: &Arc<State>, program: Program) {
    let mut program = program;
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let status = Keeper::new(entry, program).run();
        let Some(status) = status else { return };
        state.session_ended(status.pid);
        if ended_with_the_guest(entry, state) {
            // It is stored as running: the guest's end cut it off.
            return;
        }
        failures = if began.elapsed() >= WELL { 0 } else { failures };
        let asked = entry.lock().stop_by.is_some();
        let policy = entry.lock().record.spec.restart;
        let Some(pause) = restart_after(policy, status.exit, asked, failures) else {
            let status = status.exit;
            return entry.set_state(SessionState::Ended { status, asked });
        };
        failures += 1;
        entry.set_state(SessionState::Restarting {
            status: status.exit,
        });
        if wait_out(entry, pause) {
            let (status, asked) = (status.exit, true);
            return entry.set_state(SessionState::Ended { status, asked });
        }
        program = match start_program(entry, state) {
            Ok(program) => program,
            Err(refusal) => {
                let why = match *refusal {
                    AgentMessage::Error(error) => error.message,
                    _ => "it was not started".to_owned(),
                };
                return entry.set_state(SessionState::Failed { why });
            }
        };
    }
}

/// Whether the guest is going down. A program that shall come back with it may hear of that before the
/// agent does: then a moment is waited.
fn ended_with_the_guest(entry: &Entry, state: &State) -> bool {
    let shared = entry.lock();
    let comes_back = shared.record.spec.on_boot && shared.stop_by.is_none();
    drop(shared);
    let longest = if comes_back { MOMENT } else { Duration::ZERO };
    state.wait_for_ending(longest)
}

/// The pause before the program is started again; `None` when it is not.
fn restart_after(
    policy: RestartPolicy,
    status: ExitStatus,
    asked: bool,
    failures: u32,
) -> Option<Duration> {
    let again = policy == RestartPolicy::OnFailure && !status.success() && !asked;
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    again.then(|| PAUSE.saturating_mul(factor).min(LONGEST_PAUSE))
}

/// Waits for that long; whether somebody asked for the session's end meanwhile.
fn wait_out(entry: &Entry, pause: Duration) -> bool {
    let end = Instant::now() + pause;
    loop {
        if entry.lock().stop_by.is_some() {
            return true;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut fds = [PollFd::new(&entry.keeper, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, Timespec::try_from(left).ok().as_ref());
        entry.keeper.clear();
    }
}

/// Starts the session's program, and says so.
pub(super) fn start_program(entry: &Entry, state: &State) -> Result<Program, Box<AgentMessage>> {
    let request = entry.lock().record.exec();
    let door = entry.group.ensure();
    let mut program = start::start_in(&request, state, door.as_deref())?;
    for fd in [&program.stdin, &program.stdout, &program.stderr] {
        fd.iter().for_each(nonblocking);
    }
    let pid = program.pid.as_raw_nonzero().get().unsigned_abs();
    let mut shared = entry.lock();
    shared.record.runs += 1;
    shared.record.started_ms = now_ms();
    shared.program = Some(Running {
        pid: program.pid,
        stdin: program.stdin.take().map(Arc::new),
        terminal: program.terminal.take().map(Arc::new),
    });
    if shared.stop_by.is_some() {
        // Somebody asked for its end as it was started again.
        entry.group.signal(program.pid, Signal::TERM);
    }
    drop(shared);
    entry.set_state(SessionState::Running { pid });
    Ok(program)
}

/// How a program ended.
struct Ended {
    pid: Pid,
    exit: ExitStatus,
}

/// One run of the program.
struct Keeper<'a> {
    entry: &'a Entry,
    pid: Pid,
    pidfd: OwnedFd,
    outputs: [(Stream, Option<OwnedFd>); 2],
    /// Since when it has ended, and how. It is not reaped before its group is empty: its number is
    /// the group's.
    exited: Option<ExitStatus>,
    /// It was ended by force, because somebody asked.
    forced: bool,
    /// When what it left behind is killed.
    kill_at: Option<Instant>,
    killed: bool,
    buffer: Box<[u8]>,
}

fn nonblocking(fd: &OwnedFd) {
    if let Ok(flags) = rustix::fs::fcntl_getfl(fd) {
        let _ = rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK);
    }
}

impl<'a> Keeper<'a> {
    fn new(entry: &'a Entry, program: Program) -> Self {
        Self {
            entry,
            pid: program.pid,
            pidfd: program.pidfd,
            outputs: [
                (Stream::Stdout, program.stdout),
                (Stream::Stderr, program.stderr),
            ],
            exited: None,
            forced: false,
            kill_at: None,
            killed: false,
            buffer: vec![0; MAX_DATA].into_boxed_slice(),
        }
    }

    /// Until the program and all it started have ended and their output is in the log.
    fn run(mut self) -> Option<Ended> {
        let exit = loop {
            if let Some(exit) = self.exited
                && self.is_over()
            {
                break exit;
            }
            let ready = self.wait()?;
            if ready.exited && self.exited.is_none() {
                self.exited = self.peek();
                if self.exited.is_some() {
                    self.begin_end();
                }
            }
            for at in 0..self.outputs.len() {
                if ready.outputs[at] {
                    self.read_output(at);
                }
            }
            self.force();
        };
        let mut shared = self.entry.lock();
        shared.program = None;
        drop(shared);
        self.reap();
        self.entry.group.remove();
        Some(Ended {
            pid: self.pid,
            exit,
        })
    }

    fn is_over(&self) -> bool {
        let open = self.outputs.iter().any(|(_, fd)| fd.is_some());
        !open && (self.killed || self.entry.group.is_empty(self.pid).unwrap_or(true))
    }

    fn wait(&self) -> Option<Ready> {
        let shared = self.entry.lock();
        let room = shared.has_room();
        let stop_by = shared.stop_by;
        drop(shared);
        let mut fds = vec![PollFd::new(&self.entry.keeper, PollFlags::IN)];
        let exit = self.exited.is_none().then_some(&self.pidfd);
        let exit = session::add(&mut fds, exit, PollFlags::IN);
        let outputs = [0, 1].map(|at: usize| {
            let output = self.outputs[at].1.as_ref().filter(|_| room);
            session::add(&mut fds, output, PollFlags::IN)
        });
        let now = Instant::now();
        let until = |time: Instant| time.saturating_duration_since(now);
        let mut longest = self.due(stop_by).map(until);
        if self.exited.is_some() {
            // Nothing tells of a control group's emptiness.
            longest = Some(longest.unwrap_or(LOOK).min(LOOK));
        }
        let longest = longest.and_then(|time| Timespec::try_from(time).ok());
        match rustix::event::poll(&mut fds, longest.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
        let is_ready = |place: Option<usize>| place.is_some_and(|at| !fds[at].revents().is_empty());
        let ready = Ready {
            exited: is_ready(exit),
            outputs: outputs.map(is_ready),
        };
        self.entry.keeper.clear();
        Some(ready)
    }

    fn read_output(&mut self, at: usize) {
        let (stream, Some(fd)) = &self.outputs[at] else {
            return;
        };
        match rustix::io::read(fd, &mut self.buffer[..]) {
            Ok(count @ 1..) => {
                let mut shared = self.entry.lock();
                shared.log.append(*stream, &self.buffer[..count]);
                shared.notify();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Also a terminal whose other end is closed, which says EIO.
            Ok(_) | Err(_) => self.outputs[at].1 = None,
        }
    }

    /// How the program ended, when it has. It stays a zombie.
    fn peek(&self) -> Option<ExitStatus> {
        exit_status(&self.pidfd, WaitIdOptions::NOWAIT)
    }

    fn reap(&self) {
        let options = WaitIdOptions::EXITED;
        while let Err(Errno::INTR) =
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)
        {}
    }

    /// The program has ended: what it left behind shall, too.
    fn begin_end(&mut self) {
        self.entry.lock().program = None;
        if self.entry.group.is_empty(self.pid) != Some(true) {
            self.entry.group.signal(self.pid, Signal::TERM);
            self.entry.group.signal(self.pid, Signal::CONT);
        }
        let left = if self.forced {
            Duration::ZERO
        } else {
            LEFT_BEHIND
        };
        self.kill_at = Some(Instant::now() + left);
    }

    /// When something is to be ended by force.
    fn due(&self, stop_by: Option<Instant>) -> Option<Instant> {
        let stop_by = stop_by.filter(|_| !self.forced);
        let kill_at = self.kill_at.filter(|_| !self.killed);
        [stop_by, kill_at].into_iter().flatten().min()
    }

    /// Ends by force what had its time.
    fn force(&mut self) {
        let now = Instant::now();
        let stop_by = self.entry.lock().stop_by;
        if self.due(stop_by).is_some_and(|due| due <= now) {
            self.entry.group.kill(self.pid);
            self.forced = true;
            self.killed = self.exited.is_some();
        }
        if self.killed {
            for at in 0..self.outputs.len() {
                self.read_rest(at);
            }
        }
    }

    /// What an output still holds; then it is closed, whoever has the other end.
    fn read_rest(&mut self, at: usize) {
        // A pipe's content, and not what an escaped process goes on writing.
        for _ in 0..64 {
            let Some(fd) = &self.outputs[at].1 else {
                return;
            };
            let mut fds = [PollFd::new(fd, PollFlags::IN)];
            let now = Timespec::default();
            let more = matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1));
            if !more {
                break;
            }
            if !self.entry.lock().has_room() {
                // The client who is attached is waited for.
                return;
            }
            self.read_output(at);
        }
        self.outputs[at].1 = None;
    }
}

struct Ready {
    exited: bool,
    outputs: [bool; 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_that_nobody_wanted_are_followed_by_a_restart() {
        let on = RestartPolicy::OnFailure;
        let failed = ExitStatus::Code(3);
        assert_eq!(restart_after(on, failed, false, 0), Some(PAUSE));
        assert_eq!(restart_after(on, failed, false, 2), Some(4 * PAUSE));
        for failures in [10, 31, 32, 1000] {
            let pause = restart_after(on, ExitStatus::Signal(9), false, failures);
            assert_eq!(pause, Some(LONGEST_PAUSE));
        }
        assert_eq!(restart_after(on, failed, true, 0), None);
        assert_eq!(restart_after(on, ExitStatus::Code(0), false, 0), None);
        let never = RestartPolicy::Never;
        assert_eq!(restart_after(never, failed, false, 0), None);
    }
}
