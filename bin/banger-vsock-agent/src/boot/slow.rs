//! What a boot waits for, told when it waits long: a guest that stands still says where.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::BootError;
use crate::console;

/// After so long it is told, and each time that it has been so long again.
const LONG: Duration = Duration::from_secs(20);

/// What a thread of the boot is at.
#[derive(Debug, Clone, Default)]
pub(super) struct Place(Arc<Mutex<&'static str>>);

impl Place {
    /// It is at this now.
    pub(super) fn at(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// A step without which there is no guest: it is at this while it does so.
    ///
    /// # Errors
    /// The step's.
    pub(super) fn step<T>(
        &self,
        what: &'static str,
        act: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, BootError> {
        self.at(what);
        act().map_err(|error| BootError::step(what, error))
    }

    fn now(&self) -> &'static str {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that looks at a boot, until the value is told that it is done.
#[derive(Debug)]
pub(super) struct Slow {
    done: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Slow {
    /// Looks at the threads of a boot from now on.
    pub(super) fn watch(places: Vec<Place>) -> io::Result<Self> {
        Self::tell(LONG, places, |what| console::by_the_kernel(&what))
    }

    fn tell(
        long: Duration,
        places: Vec<Place>,
        mut tell: impl FnMut(String) + Send + 'static,
    ) -> io::Result<Self> {
        let (done, is_done) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().spawn(move || {
            let mut waited = Duration::ZERO;
            while is_done.recv_timeout(long) == Err(RecvTimeoutError::Timeout) {
                waited += long;
                let at: Vec<_> = places.iter().map(Place::now).collect();
                tell(format!(
                    "banger: the boot takes long: after {} s it is at: {}",
                    waited.as_secs(),
                    at.join("; ")
                ));
            }
        })?;
        Ok(Self { done, thread })
    }

    /// The boot is done; comes back when the thread has ended.
    pub(super) fn done(self) {
        drop(self.done);
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_long_is_told_of_and_who_is_done_is_not() {
        let (one, other) = (Place::default(), Place::default());
        one.at("mount the root disk");
        other.at("load modules");
        let (told, said) = mpsc::channel();
        let places = vec![one.clone(), other];
        let slow = Slow::tell(Duration::from_millis(5), places, move |what| {
            let _ = told.send(what);
        })
        .unwrap();
        let first = said.recv().unwrap();
        assert!(
            first.ends_with("mount the root disk; load modules"),
            "{first}"
        );
        one.at("enter it");
        let later = said.iter().find(|what| what.contains("enter it"));
        assert!(later.is_some());
        slow.done();
        assert!(said.iter().count() < 1000, "it goes on");
    }

    #[test]
    fn who_is_quick_is_not_told_of() {
        let slow = Slow::tell(Duration::from_secs(60), vec![], |what| {
            unreachable!("{what}")
        });
        slow.unwrap().done();
    }
}
