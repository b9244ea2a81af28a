//! The user's own terminal in raw mode, for as long as a guest's program has it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use banger_guest_proto::TtySize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode while it lives; dropping it (also by a panic) restores the terminal.
#[derive(Debug)]
pub(crate) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Switches the terminal to raw mode (cfmakeraw(3)).
    pub(crate) fn enter(terminal: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let terminal = terminal.try_clone_to_owned().map_err(|error| {
            rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::BADF)
        })?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        // Drain what was written before, keep what was typed ahead.
        tcsetattr(&terminal, OptionalActions::Drain, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal.as_fd(), OptionalActions::Drain, &self.before);
    }
}

/// The size of the terminal, when it is one and knows it.
pub fn size_of(fd: BorrowedFd<'_>) -> Option<TtySize> {
    if !isatty(fd) {
        return None;
    }
    let size = tcgetwinsize(fd).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(TtySize {
        rows: size.ws_row,
        cols: size.ws_col,
    })
}
