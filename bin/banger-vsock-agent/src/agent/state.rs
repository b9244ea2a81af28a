//! What the agent's threads share.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use banger_guest_proto::{InitKind, Readiness, Status};
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use super::forward::Waiting;
use super::kept_environment::KeptEnvironment;
use super::sessions::Sessions;

/// How far the guest is, and what runs in it for clients.
#[derive(Debug)]
pub(super) struct State {
    init: InitKind,
    shared: Mutex<Shared>,
    changed: Condvar,
    connections: Arc<AtomicUsize>,
    kept: Sessions,
    environment: KeptEnvironment,
    waiting: Waiting,
}

#[derive(Debug)]
struct Shared {
    readiness: Readiness,
    problems: Vec<String>,
    /// Leaders of the sessions that clients started, not yet reaped.
    sessions: HashSet<i32>,
    ending: bool,
}

/// Counts a connection while it lives.
#[derive(Debug)]
pub(super) struct Connected(Arc<AtomicUsize>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Milliseconds since the kernel started.
pub(super) fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let ms = now.tv_sec * 1000 + now.tv_nsec / 1_000_000;
    u64::try_from(ms).unwrap_or_default()
}

impl State {
    /// With the sessions that are kept in a folder, and the environment beside it.
    pub(super) fn new(
        init: InitKind,
        mut problems: Vec<String>,
        sessions: impl AsRef<Path>,
    ) -> Self {
        let sessions = sessions.as_ref();
        let (environment, problem) = KeptEnvironment::beside(sessions);
        problems.extend(problem);
        Self {
            init,
            shared: Mutex::new(Shared {
                readiness: Readiness::Booting,
                problems,
                sessions: HashSet::new(),
                ending: false,
            }),
            changed: Condvar::new(),
            connections: Arc::default(),
            kept: Sessions::new(sessions),
            environment,
            waiting: Waiting::default(),
        }
    }

    /// The sessions that are kept for clients.
    pub(super) fn kept(&self) -> &Sessions {
        &self.kept
    }

    /// The VM's environment.
    pub(super) fn environment(&self) -> &KeptEnvironment {
        &self.environment
    }

    /// Who waits to be claimed by the host.
    pub(super) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    // A thread that panicked held plain values only; they are whole.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn init(&self) -> InitKind {
        self.init
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn connected(&self) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(&self.connections))
    }

    pub(super) fn problem(&self, text: String) {
        self.lock().problems.push(text);
    }

    /// The guest is that far now.
    pub(super) fn reached(&self, readiness: Readiness) {
        self.lock().readiness = readiness;
        self.changed.notify_all();
    }

    pub(super) fn readiness(&self) -> Readiness {
        self.lock().readiness
    }

    /// Waits for a while; whether the guest is that far.
    pub(super) fn wait(&self, readiness: Readiness, longest: Duration) -> bool {
        let unmet = |shared: &mut Shared| shared.readiness < readiness;
        let (shared, _) = self
            .changed
            .wait_timeout_while(self.lock(), longest, unmet)
            .unwrap_or_else(PoisonError::into_inner);
        shared.readiness >= readiness
    }

    /// Starts a session under the lock, so that none starts once the end has begun.
    pub(super) fn start_session(
        &self,
        start: impl FnOnce() -> std::io::Result<Pid>,
    ) -> Option<std::io::Result<Pid>> {
        let mut shared = self.lock();
        if shared.ending {
            return None;
        }
        let started = start();
        if let Ok(pid) = &started {
            shared.sessions.insert(pid.as_raw_nonzero().get());
        }
        Some(started)
    }

    pub(super) fn session_ended(&self, pid: Pid) {
        self.lock().sessions.remove(&pid.as_raw_nonzero().get());
        self.changed.notify_all();
    }

    /// From now on no session starts.
    pub(super) fn begin_end(&self) {
        self.lock().ending = true;
        self.changed.notify_all();
    }

    /// Waits for a while; whether the end has begun.
    pub(super) fn wait_for_ending(&self, longest: Duration) -> bool {
        let (shared, _) = self
            .changed
            .wait_timeout_while(self.lock(), longest, |shared| !shared.ending)
            .unwrap_or_else(PoisonError::into_inner);
        shared.ending
    }

    /// Waits for a while; whether no session is left.
    pub(super) fn wait_for_sessions(&self, longest: Duration) -> bool {
        let busy = |shared: &mut Shared| !shared.sessions.is_empty();
        let (shared, _) = self
            .changed
            .wait_timeout_while(self.lock(), longest, busy)
            .unwrap_or_else(PoisonError::into_inner);
        shared.sessions.is_empty()
    }

    /// Lets a little time pass, for what gives no event.
    pub(super) fn pause(&self, time: Duration) {
        let ended = self.lock();
        let _ = self.changed.wait_timeout(ended, time);
    }

    pub(super) fn status(&self) -> Status {
        let hostname = rustix::system::uname();
        let shared = self.lock();
        Status {
            readiness: shared.readiness,
            uptime_ms: uptime_ms(),
            hostname: hostname.nodename().to_string_lossy().into_owned(),
            init: self.init,
            sessions: u32::try_from(shared.sessions.len()).unwrap_or(u32::MAX),
            problems: shared.problems.clone(),
        }
    }
}
