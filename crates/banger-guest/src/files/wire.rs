//! The connection of a transfer, as the one who sends and as the one who receives sees it.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::Progress;

/// Counts what passes: one for each direction. A sender stops as soon as the other side says something: during a transfer that
/// can only be why it takes no more.
pub struct Wire<'a> {
    stream: &'a UnixStream,
    progress: Progress<'a>,
}

impl fmt::Debug for Wire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl<'a> Wire<'a> {
    pub(super) fn new(stream: &'a UnixStream, progress: Progress<'a>) -> Self {
        Self { stream, progress }
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        (self.progress)(count as u64);
        Ok(count)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            let mut fds = [PollFd::new(self.stream, PollFlags::IN | PollFlags::OUT)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let ready = fds[0].revents();
            if ready.contains(PollFlags::IN) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
            match rustix::net::send(self.stream, buffer, flags) {
                Ok(count) => {
                    (self.progress)(count as u64);
                    return Ok(count);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
