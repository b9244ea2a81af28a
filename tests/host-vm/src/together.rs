//! What tests that run beside each other do to their host: once, when each of them is that far.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow, ensure};

/// A meeting of the tests that run at a time. Without any it is of the one that comes.
#[derive(Debug, Default)]
pub(crate) struct Together {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Tests that have not ended.
    running: usize,
    /// Those of them that are here.
    waiting: usize,
    /// What they are here for.
    what: String,
    /// Whether one of them does it just now.
    busy: bool,
    /// How often something was done.
    rounds: u64,
    /// Why the last of it failed.
    outcome: Option<String>,
}

/// A test that takes part, until it ends.
#[derive(Debug)]
pub(crate) struct Part<'a>(&'a Together);

impl Together {
    /// Takes part from now on.
    pub(crate) fn join(&self) -> Part<'_> {
        self.lock().running += 1;
        Part(self)
    }

    /// Waits until all are here for the same, and have not ended; one of them does it, and all learn how it went.
    ///
    /// # Errors
    /// It failed; or another test is here for something else.
    pub(crate) fn once(&self, what: &str, deed: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut state = self.lock();
        ensure!(
            state.waiting == 0 || state.what == what,
            "one test is here for `{what}`, another for `{}`",
            state.what
        );
        what.clone_into(&mut state.what);
        state.waiting += 1;
        let round = state.rounds;
        while state.rounds == round && (state.busy || state.waiting < state.running) {
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        if state.rounds == round {
            state.busy = true;
            drop(state);
            let outcome = deed().err().map(|error| format!("{error:#}"));
            state = self.lock();
            (state.busy, state.waiting, state.outcome) = (false, 0, outcome);
            state.rounds += 1;
            self.changed.notify_all();
        }
        match &state.outcome {
            None => Ok(()),
            Some(why) => Err(anyhow!("{what}: {why}")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Barrier};

    use super::*;

    /// Runs a test of a pair in a thread, which takes part from before it begins.
    fn start<T: Send + 'static>(
        together: &Arc<Together>,
        all: &Arc<Barrier>,
        test: impl FnOnce(&Together) -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let (together, all) = (Arc::clone(together), Arc::clone(all));
        std::thread::spawn(move || {
            let _part = together.join();
            all.wait();
            test(&together)
        })
    }

    #[test]
    fn what_two_are_there_for_is_done_once_and_both_learn_how_it_went() {
        let (together, all) = (Arc::new(Together::default()), Arc::new(Barrier::new(2)));
        let done = Arc::new(AtomicU32::new(0));
        let tests = [(); 2].map(|()| {
            let done = Arc::clone(&done);
            start(&together, &all, move |together| {
                for round in 1..=3 {
                    together
                        .once("count", || {
                            done.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        })
                        .expect("counted");
                    assert_eq!(done.load(Ordering::SeqCst), round);
                    together
                        .once("fail", || Err(anyhow!("no luck")))
                        .expect_err("no luck")
                        .to_string()
                        .find("no luck")
                        .expect("why");
                }
            })
        });
        for test in tests {
            test.join().expect("no panic");
        }
        assert_eq!(done.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn one_that_has_ended_is_not_waited_for() {
        let (together, all) = (Arc::new(Together::default()), Arc::new(Barrier::new(2)));
        let ends = start(&together, &all, |_| ());
        let goes_on = start(&together, &all, |together| {
            together.once("alone", || Ok(())).is_ok()
        });
        ends.join().expect("no panic");
        assert!(goes_on.join().expect("no panic"));
        assert!(together.once("nobody takes part", || Ok(())).is_ok());
    }

    #[test]
    fn who_comes_for_something_else_is_told() {
        let (together, all) = (Arc::new(Together::default()), Arc::new(Barrier::new(2)));
        let tests = ["one", "other"].map(|what| {
            start(&together, &all, move |together| {
                together
                    .once(what, || Ok(()))
                    .map_err(|error| error.to_string())
            })
        });
        let ended = tests.map(|test| test.join().expect("no panic"));
        assert_eq!(ended.iter().filter(|end| end.is_ok()).count(), 1);
        let said = ended.into_iter().find_map(Result::err).expect("an error");
        assert!(said.contains("`one`") && said.contains("`other`"), "{said}");
    }
}
