//! Standard input and output as one stream.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::backlog::Backlog;
use crate::fds;

/// The client's side.
#[derive(Debug)]
pub(crate) struct Transport {
    input: AsyncFd<OwnedFd>,
    output: AsyncFd<OwnedFd>,
    backlog: Arc<Backlog>,
}

impl Transport {
    /// Over this process's own streams, which nobody else may use from here on.
    ///
    /// # Errors
    /// They are no pipes, sockets or terminals.
    pub(crate) fn over_stdio(backlog: Arc<Backlog>) -> io::Result<Self> {
        let own = |fd: rustix::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        Ok(Self {
            input: fds::watch(own(rustix::stdio::stdin())?)?,
            output: fds::watch(own(rustix::stdio::stdout())?)?,
            backlog,
        })
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.backlog.poll_room(context));
        loop {
            let mut guard = ready!(self.input.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            let read = guard.try_io(|fd| rustix::io::read(fd, room).map_err(io::Error::from));
            match read {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.output.poll_write_ready(context))?;
            let written = guard.try_io(|fd| rustix::io::write(fd, bytes).map_err(io::Error::from));
            match written {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Both ends close with the process.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
