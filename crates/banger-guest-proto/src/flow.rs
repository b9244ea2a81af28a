//! The window of one stream, as its sender and as its receiver keep it.

use crate::INITIAL_WINDOW;

/// How much the sender of a stream may still send.
#[derive(Debug, Clone)]
pub struct SendWindow {
    left: u32,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self {
            left: INITIAL_WINDOW,
        }
    }
}

impl SendWindow {
    /// Bytes that may be sent now.
    #[must_use]
    pub fn left(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX)
    }

    /// So many were sent.
    pub fn sent(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.left = self.left.saturating_sub(bytes);
    }

    /// The receiver gave room back.
    pub fn granted(&mut self, bytes: u32) {
        self.left = self.left.saturating_add(bytes);
    }
}

/// The sender sent more than it was allowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent more than the stream's window allows")]
pub struct WindowExceeded;

/// What the receiver of a stream holds and owes.
#[derive(Debug, Clone, Default)]
pub struct ReceiveWindow {
    /// Received and not consumed.
    held: u32,
    /// Consumed and not yet given back to the sender.
    owed: u32,
}

impl ReceiveWindow {
    /// So many came.
    ///
    /// # Errors
    /// [`WindowExceeded`] when the sender ignores the window; without it a hostile peer could make
    /// us hold any amount.
    pub fn received(&mut self, bytes: usize) -> Result<(), WindowExceeded> {
        let bytes = u32::try_from(bytes).map_err(|_| WindowExceeded)?;
        let held = self.held.checked_add(bytes).ok_or(WindowExceeded)?;
        if held + self.owed > INITIAL_WINDOW {
            return Err(WindowExceeded);
        }
        self.held = held;
        Ok(())
    }

    /// So many were passed on; the credit is asked for with [`owed`](Self::owed).
    pub fn took(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.held);
        self.held -= bytes;
        self.owed += bytes;
    }

    /// All the credit that is due now, however little: for a receiver whose sender goes by what was
    /// passed on.
    pub fn owed(&mut self) -> Option<u32> {
        (self.owed > 0).then(|| std::mem::take(&mut self.owed))
    }

    /// So many were passed on. The answer is the credit to send now: it is given in quarters of the
    /// window, so that small reads do not each cost a frame.
    pub fn consumed(&mut self, bytes: usize) -> Option<u32> {
        self.took(bytes);
        (self.owed >= INITIAL_WINDOW / 4).then(|| std::mem::take(&mut self.owed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_never_stalls_while_it_is_consumed() {
        let mut sender = SendWindow::default();
        let mut receiver = ReceiveWindow::default();
        let mut total = 0_usize;
        while total < 20 << 20 {
            let piece = sender.left().min(70_001);
            assert!(piece > 0, "stalled after {total}");
            sender.sent(piece);
            receiver.received(piece).unwrap();
            if let Some(credit) = receiver.consumed(piece) {
                sender.granted(credit);
            }
            total += piece;
        }
    }

    #[test]
    fn a_sender_that_ignores_the_window_is_caught() {
        let mut receiver = ReceiveWindow::default();
        let whole = INITIAL_WINDOW as usize;
        assert_eq!(receiver.received(whole), Ok(()));
        assert_eq!(receiver.received(1), Err(WindowExceeded));
        assert_eq!(receiver.consumed(10), None);
        assert_eq!(
            receiver.received(1),
            Err(WindowExceeded),
            "not given back yet"
        );
        assert!(receiver.consumed(whole / 2).is_some());
        assert_eq!(receiver.received(whole / 2), Ok(()));
    }
}
