//! Waiting for something that another process does and that nothing announces.

use std::time::{Duration, Instant};

/// Asks until the answer is yes, ten times in a second.
///
/// # Panics
/// When `deadline` passes first; `what` says what was waited for.
pub fn until(what: &str, deadline: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < deadline,
            "waited {deadline:?} in vain until {what}"
        );
        let pause = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}
