//! One of the caller's outputs: what the guest sent and the caller's reader has not taken yet.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use banger_guest_proto::{ReceiveWindow, Stream};
use rustix::fs::FileType;

use super::ExecError;

/// A pipe that polls writable takes this much without blocking (pipe(7): a free page).
const PIPE_STEP: usize = 4096;

/// A stream of the guest's on its way to a descriptor of the caller's.
#[derive(Debug)]
pub(super) struct Output<'a> {
    fd: BorrowedFd<'a>,
    stream: Stream,
    /// The most that one write may carry without the danger of blocking.
    step: usize,
    waiting: VecDeque<u8>,
    window: ReceiveWindow,
    /// Its reader is gone; what still comes is dropped.
    closed: bool,
}

impl<'a> Output<'a> {
    pub(super) fn new(fd: BorrowedFd<'a>, stream: Stream) -> Self {
        let kind = rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let never_blocks = matches!(kind, Ok(FileType::RegularFile));
        Self {
            fd,
            stream,
            step: if never_blocks { usize::MAX } else { PIPE_STEP },
            waiting: VecDeque::new(),
            window: ReceiveWindow::default(),
            closed: false,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'a> {
        self.fd
    }

    pub(super) fn stream(&self) -> Stream {
        self.stream
    }

    /// Whether there is something to write.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The guest sent this. The credit that is due at once, when nobody reads it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Option<u32>, ExecError> {
        let received = self.window.received(bytes.len());
        received.map_err(ExecError::Window)?;
        if self.closed {
            return Ok(self.window.consumed(bytes.len()));
        }
        self.waiting.extend(bytes);
        Ok(None)
    }

    /// Writes what one write takes. Only called when the descriptor polls writable (or blocking is
    /// fine): it is not ours to make non-blocking.
    pub(super) fn write_some(&mut self) -> Result<Written, ExecError> {
        let (first, _) = self.waiting.as_slices();
        let piece = &first[..first.len().min(self.step)];
        match rustix::io::write(self.fd, piece) {
            Ok(count) => {
                self.waiting.drain(..count);
                Ok(Written::Passed(self.window.consumed(count)))
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(Written::Passed(None)),
            Err(rustix::io::Errno::PIPE) => {
                self.closed = true;
                let dropped = self.waiting.len();
                self.waiting.clear();
                Ok(Written::ReaderGone(self.window.consumed(dropped)))
            }
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Writes all that is left, and may block: nothing else is to be done any more.
    pub(super) fn finish(&mut self) -> Result<(), ExecError> {
        while self.is_waiting() {
            match self.write_some()? {
                Written::Passed(_) => {
                    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                        self.fd,
                        rustix::event::PollFlags::OUT,
                    )];
                    let _ = rustix::event::poll(&mut fds, None);
                }
                Written::ReaderGone(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> ExecError {
        let stream = match self.stream {
            Stream::Stdin => "standard input",
            Stream::Stdout => "standard output",
            Stream::Stderr => "standard error",
        };
        ExecError::Local { stream, source }
    }
}

/// What a write came to.
#[derive(Debug)]
pub(super) enum Written {
    /// Some was written; this credit is due.
    Passed(Option<u32>),
    /// Nobody reads any more; this credit is due.
    ReaderGone(Option<u32>),
}
