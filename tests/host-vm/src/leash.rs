//! What ends the VM before its time: Ctrl-C, a request to end, a time limit. The VM also ends with this process,
//! however it ends: it is started to be killed with its parent.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::signal::unix::{SignalKind, signal};

/// Holds the processes that must not outlive a run.
#[derive(Debug, Clone)]
pub(crate) struct Leash(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pulled: AtomicBool,
    reason: Mutex<String>,
    processes: Mutex<Vec<Arc<OwnedFd>>>,
}

impl Leash {
    /// Starts to listen for signals.
    pub(crate) fn new() -> Result<Self> {
        let leash = Self(Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the signal listener")?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            )
        };
        let listener = leash.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            listener.pull("interrupted");
        });
        Ok(leash)
    }

    /// Takes a process in, and ends it when the limit passes.
    pub(crate) fn hold(&self, process: Arc<OwnedFd>, limit: Duration) {
        self.processes().push(process.clone());
        let leash = self.clone();
        std::thread::spawn(move || {
            let mut end = [PollFd::new(&*process, PollFlags::IN)];
            let limit_left = Timespec::try_from(limit).ok();
            // 0: the limit passed before the process ended.
            if matches!(poll(&mut end, limit_left.as_ref()), Ok(0)) {
                leash.pull(&format!(
                    "the time limit of {} minutes passed",
                    limit.as_secs() / 60
                ));
            }
        });
    }

    /// Why everything was ended, if it was.
    pub(crate) fn pulled(&self) -> Option<String> {
        self.0.pulled.load(Ordering::Acquire).then(|| {
            let reason = self.0.reason.lock();
            reason.unwrap_or_else(PoisonError::into_inner).clone()
        })
    }

    fn pull(&self, reason: &str) {
        *self.0.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason.to_owned();
        self.0.pulled.store(true, Ordering::Release);
        for process in self.processes().iter() {
            // It may have ended by itself.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, Vec<Arc<OwnedFd>>> {
        self.0
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
