//! Waiting for something that nothing announces.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks, with a pause between, until there is an answer.
pub(crate) fn until<T>(
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if start.elapsed() > deadline {
            bail!("waited {} s in vain until {what}", deadline.as_secs());
        }
        let pause = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 200_000_000,
        };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}
