//! What passes, shown when it takes longer than a second.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

/// Before this, nothing is shown.
const QUIET: Duration = Duration::from_secs(1);

/// Bytes as they pass; on a terminal a line of its own, which goes away at the end.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    total: Option<u64>,
    shown: bool,
    once: Option<watch::Receiver<bool>>,
    state: RefCell<(u64, Option<ProgressBar>)>,
}

impl Progress {
    /// Begins; `total` when it is known, and shown only when asked for.
    pub(crate) fn new(total: Option<u64>, show: bool) -> Self {
        Self {
            start: Instant::now(),
            total,
            shown: show && std::io::stderr().is_terminal(),
            once: None,
            state: RefCell::new((0, None)),
        }
    }

    /// Shown only from when that is true: something else is shown until then.
    pub(crate) fn once(mut self, when: watch::Receiver<bool>) -> Self {
        self.once = Some(when);
        self
    }

    /// So many more bytes.
    pub(crate) fn add(&self, bytes: u64) {
        let mut state = self.state.borrow_mut();
        state.0 += bytes;
        let is_early = |when: &watch::Receiver<bool>| !*when.borrow();
        let waits = self.once.as_ref().is_some_and(is_early);
        if !self.shown || waits || self.start.elapsed() < QUIET {
            return;
        }
        let bar = state.1.take().unwrap_or_else(|| self.bar());
        bar.set_position(state.0);
        state.1 = Some(bar);
    }

    fn bar(&self) -> ProgressBar {
        let (bar, template) = match self.total {
            Some(total) => (
                ProgressBar::new(total),
                "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{spinner} {binary_bytes} {binary_bytes_per_sec} {elapsed}",
            ),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.with_elapsed(self.start.elapsed())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.state.borrow_mut().1.take() {
            bar.finish_and_clear();
        }
    }
}
