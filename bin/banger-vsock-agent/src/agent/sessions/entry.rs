//! One session, as the threads that have to do with it share it: its keeper, whoever is attached,
//! readers of its log, and requests.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use banger_guest_proto::{SessionInfo, SessionState, StdinMode};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Pid;

use super::group::Group;
use super::log::Log;
use super::record::{Record, now_ms};

/// Wakes a thread that polls it.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    pub(super) fn wake(&self) {
        // It can only fail when it is set already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Takes the wakes that have come.
    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A session.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) folder: PathBuf,
    pub(super) group: Group,
    /// For the keeper.
    pub(super) keeper: Wake,
    shared: Mutex<Shared>,
    changed: Condvar,
}

/// What changes of it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) record: Record,
    pub(super) log: Log,
    /// The program that runs.
    pub(super) program: Option<Running>,
    /// Somebody wants its end, and by when it comes by force.
    pub(super) stop_by: Option<Instant>,
    /// The client that is attached.
    pub(super) attached: Option<Attached>,
    /// How many bytes of input it has taken.
    pub(super) input_taken: u64,
    readers: Vec<Weak<Wake>>,
    attaches: u64,
}

/// The program, as clients have to do with it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) stdin: Option<Arc<OwnedFd>>,
    pub(super) terminal: Option<Arc<OwnedFd>>,
}

/// Who is attached.
#[derive(Debug)]
pub(super) struct Attached {
    number: u64,
    wake: Weak<Wake>,
    /// Where in the log it is: what is before that position it has taken.
    position: u64,
}

impl Entry {
    pub(super) fn new(folder: PathBuf, group: Group, record: Record) -> std::io::Result<Self> {
        let log = Log::open(&folder.join("log"), record.log_bytes())?;
        Ok(Self {
            folder,
            group,
            keeper: Wake::new()?,
            shared: Mutex::new(Shared {
                record,
                log,
                program: None,
                stop_by: None,
                attached: None,
                input_taken: 0,
                readers: vec![],
                attaches: 0,
            }),
            changed: Condvar::new(),
        })
    }

    // A thread that panicked has aborted the agent; the values are whole.
    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes its state, stores it, and tells everybody.
    pub(super) fn set_state(&self, state: SessionState) {
        let mut shared = self.lock();
        shared.record.ended_ms = (!matches!(state, SessionState::Running { .. })).then(now_ms);
        shared.record.state = state;
        // The file system may be full: the state is then right until the guest's end.
        let _ = shared.record.store(&self.folder);
        shared.notify();
        drop(shared);
        self.changed.notify_all();
    }

    /// Waits for a while until it has ended; how it is then.
    pub(super) fn wait_for_end(&self, longest: Duration) -> SessionInfo {
        let live = |shared: &mut Shared| shared.record.state.is_live();
        let (shared, _) = self
            .changed
            .wait_timeout_while(self.lock(), longest, live)
            .unwrap_or_else(PoisonError::into_inner);
        shared.info()
    }

    pub(super) fn info(&self) -> SessionInfo {
        self.lock().info()
    }
}

impl Shared {
    pub(super) fn info(&self) -> SessionInfo {
        let log = self.log.extent(self.record.taken);
        self.record.info(self.attached.is_some(), log)
    }

    /// Wakes everybody who reads.
    pub(super) fn notify(&mut self) {
        self.readers.retain(|reader| match reader.upgrade() {
            Some(reader) => {
                reader.wake();
                true
            }
            None => false,
        });
    }

    pub(super) fn add_reader(&mut self, wake: &Arc<Wake>) {
        self.readers.push(Arc::downgrade(wake));
    }

    /// Makes this reader the one who is attached; `None` when another is and may stay.
    pub(super) fn attach(
        &mut self,
        wake: &Arc<Wake>,
        take_over: bool,
        position: u64,
    ) -> Option<u64> {
        if let Some(other) = &self.attached {
            if !take_over {
                return None;
            }
            if let Some(wake) = other.wake.upgrade() {
                wake.wake();
            }
        }
        self.attaches += 1;
        self.attached = Some(Attached {
            number: self.attaches,
            wake: Arc::downgrade(wake),
            position,
        });
        Some(self.attaches)
    }

    pub(super) fn is_attached(&self, number: u64) -> bool {
        matches!(&self.attached, Some(attached) if attached.number == number)
    }

    /// That one has taken all before a position.
    pub(super) fn took(&mut self, number: u64, position: u64) {
        if let Some(attached) = &mut self.attached
            && attached.number == number
        {
            attached.position = position;
            self.record.taken = self.record.taken.max(position);
        }
    }

    /// That one is gone.
    pub(super) fn detach(&mut self, number: u64, folder: &Path) {
        if self.is_attached(number) {
            self.attached = None;
            // What it took is only lost with the guest, and then sent twice.
            let _ = self.record.store(folder);
        }
    }

    /// Whether output may be read without losing what the attached client has not taken.
    pub(super) fn has_room(&self) -> bool {
        match &self.attached {
            Some(attached) if self.stop_by.is_none() => self.log.has_room(attached.position),
            _ => true,
        }
    }

    pub(super) fn accepts_input(&self) -> bool {
        self.record.spec.stdin_mode != StdinMode::Detached
    }
}
