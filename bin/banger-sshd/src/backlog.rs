//! How much input of the client's waits for programs to take it. The ssh library grants a channel new room for whatever
//! arrives, taken or not, so this is what bounds the memory: while too much waits, nothing more is read of the connection.
//! Output goes on meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// The most that may wait, in bytes, and a channel's window more. More than a client may have on its way, so that it is not
/// the client's word of having taken output which has to wait behind its input.
const MOST: usize = 16 << 20;

/// What waits, for one connection.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    held: AtomicUsize,
    reader: Mutex<Option<Waker>>,
}

impl Backlog {
    /// Ready when there is room for more.
    pub(crate) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.held.load(Ordering::SeqCst) < MOST {
            return Poll::Ready(());
        }
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        // What was taken before the waker was there has woken nobody.
        match self.held.load(Ordering::SeqCst) < MOST {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Counts a piece until it is dropped.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes) -> Held {
        self.held.fetch_add(bytes.len(), Ordering::SeqCst);
        Held {
            bytes,
            backlog: Arc::clone(self),
        }
    }
}

/// A piece of input that waits.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: Bytes,
    backlog: Arc<Backlog>,
}

impl Held {
    /// The input.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.backlog
            .held
            .fetch_sub(self.bytes.len(), Ordering::SeqCst);
        let mut reader = self
            .backlog
            .reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = reader.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_is_taken_makes_room_and_wakes_who_waits_for_it() {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Arc::clone(&flag).into();
        let mut context = Context::from_waker(&waker);
        let backlog = Arc::new(Backlog::default());
        let half = || backlog.hold(Bytes::from(vec![0; MOST / 2]));
        let first = half();
        assert!(backlog.poll_room(&mut context).is_ready());
        let second = half();
        assert!(backlog.poll_room(&mut context).is_pending());
        assert!(!flag.0.load(Ordering::SeqCst));
        drop(first);
        assert!(flag.0.load(Ordering::SeqCst));
        assert!(backlog.poll_room(&mut context).is_ready());
        assert_eq!(second.bytes().len(), MOST / 2);
    }
}
