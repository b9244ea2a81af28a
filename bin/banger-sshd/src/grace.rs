//! The time that a client has to log in. A thread and a signal keep it, not the runtime: it ends also a server that is stuck
//! where no timer of the runtime's is looked at (a random number generator that has nothing to give yet, for one).

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::complain;

/// Ends the process when it is neither passed nor dropped in time.
#[derive(Debug)]
pub(crate) struct Grace(Option<Sender<()>>);

impl Grace {
    /// Starts to count.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(longest: Duration) -> std::io::Result<Self> {
        let (passed, hears) = channel();
        std::thread::Builder::new()
            .name("grace".to_owned())
            .spawn(move || {
                if hears.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
                    complain(&format!(
                        "nobody has logged in within {} s",
                        longest.as_secs()
                    ));
                    // Nobody handles this one: the process ends of it.
                    let _ = kill_process(getpid(), Signal::ALARM);
                }
            })?;
        Ok(Self(Some(passed)))
    }

    /// The client has logged in.
    pub(crate) fn passed(&mut self) {
        self.0 = None;
    }
}
