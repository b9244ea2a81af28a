//! A connection to the agent that a poll loop drives: what waits to be sent, and what has come.

use std::io;
use std::os::unix::net::UnixStream;

use banger_guest_proto::{
    ClientMessage, Decoder, Frame, FrameError, Hello, Outbox, encode_control,
};
use rustix::io::Errno;
use rustix::net::SendFlags;

/// One connection, that does not block.
pub(crate) struct Link {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    pub(crate) outbox: Outbox,
}

/// Why nothing more comes.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The agent has hung up.
    Gone,
    /// The connection failed.
    Failed(io::Error),
}

impl Link {
    /// A hello and the request wait to be sent.
    pub(crate) fn new(stream: UnixStream, request: &ClientMessage) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut outbox = Outbox::default();
        encode_control(outbox.frames(), &ClientMessage::Hello(Hello::ours()));
        encode_control(outbox.frames(), request);
        Ok(Self {
            stream,
            decoder: Decoder::default(),
            outbox,
        })
    }

    /// Sends what the connection takes. False: the agent has hung up; why, it said before, and that is
    /// still to be read.
    pub(crate) fn send(&mut self) -> io::Result<bool> {
        let sent = self.outbox.send(|bytes| {
            rustix::net::send(&self.stream, bytes, SendFlags::NOSIGNAL).map_err(Into::into)
        });
        match sent {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                    self.outbox.clear();
                    Ok(false)
                }
                _ => Err(error),
            },
        }
    }

    /// Reads what has come, for [`Link::decoded`].
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<(), Lost> {
        match rustix::io::read(&self.stream, &mut *buffer) {
            Ok(0) | Err(Errno::CONNRESET) => return Err(Lost::Gone),
            Ok(count) => self.decoder.push(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(Lost::Failed(error.into())),
        }
        Ok(())
    }

    /// The next frame of what has come.
    pub(crate) fn decoded(&mut self) -> Result<Option<Frame>, FrameError> {
        self.decoder.next_frame()
    }
}
