//! Ctrl-C, and being asked to end.

use std::future::poll_fn;
use std::task::Poll;

use banger_core::ErrorCode;
use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CommandError;

/// Interrupts since it was made: none is lost between two waits. A terminal that closes is none: a
/// client that vanishes cancels nothing.
#[derive(Debug)]
pub(crate) struct Interrupts {
    signals: [Signal; 2],
    seen: bool,
}

impl Interrupts {
    /// Begins to watch. From here on, no SIGINT or SIGTERM ends the process by itself.
    pub(crate) fn watch() -> Result<Self, CommandError> {
        let watch = |kind| {
            let what = "signals cannot be watched";
            signal(kind).map_err(|error| CommandError::because(ErrorCode::Internal, what, &error))
        };
        Ok(Self {
            signals: [
                watch(SignalKind::interrupt())?,
                watch(SignalKind::terminate())?,
            ],
            seen: false,
        })
    }

    /// Resolves at the next one.
    pub(crate) async fn next(&mut self) {
        poll_fn(|context| {
            let any = self
                .signals
                .iter_mut()
                .any(|signal| signal.poll_recv(context).is_ready());
            if any { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.seen = true;
    }

    /// Whether there was one up to now.
    pub(crate) fn seen(&mut self) -> bool {
        let _ = self.next().now_or_never();
        self.seen
    }
}
