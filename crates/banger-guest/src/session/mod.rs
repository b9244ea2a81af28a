//! Sessions in a guest (`docs/sessions.md`), over an open connection to its agent: blocking, for the
//! CLI, which gets the connection as a file descriptor.

mod attach;
mod error;
mod logs;

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;

use banger_guest_proto::{
    AgentErrorCode, AgentMessage, ClientMessage, Frame, Hello, ReadFrameError, SessionReply,
    SessionRequest, encode_control, encode_frame, read_frame,
};

pub use attach::{AttachEnd, AttachIo, AttachNote, DETACH_KEY, attach};
pub use error::SessionError;
pub use logs::{LogItem, logs};

/// Asks one thing about sessions.
///
/// # Errors
/// [`SessionError`] when the agent refuses, is too old, or is gone.
pub fn call(stream: UnixStream, request: SessionRequest) -> Result<SessionReply, SessionError> {
    match Conversation::begin(stream, &ClientMessage::Session(request))?.next()? {
        Said::Session(reply) => Ok(reply),
        _ => Err(SessionError::Unexpected),
    }
}

/// A connection on which one request was made.
#[derive(Debug)]
pub(crate) struct Conversation {
    stream: BufReader<UnixStream>,
    agent: Option<Hello>,
}

/// What the agent says on it.
#[derive(Debug)]
pub(crate) enum Said {
    Session(SessionReply),
    Forward(banger_guest_proto::ForwardReply),
    Record(banger_guest_proto::Stream, u64, Vec<u8>),
}

impl Conversation {
    /// Hello and request go out in one write.
    pub(crate) fn begin(stream: UnixStream, request: &ClientMessage) -> Result<Self, SessionError> {
        Self::reading_ahead(stream, request, 1 << 16)
    }

    /// The same for a stream that goes on to somebody else after the answer: whoever connected in the
    /// guest may have spoken already, and what follows the answer is not ours to read.
    pub(crate) fn begin_exact(
        stream: UnixStream,
        request: &ClientMessage,
    ) -> Result<Self, SessionError> {
        Self::reading_ahead(stream, request, 0)
    }

    fn reading_ahead(
        mut stream: UnixStream,
        request: &ClientMessage,
        bytes_ahead: usize,
    ) -> Result<Self, SessionError> {
        let mut bytes = vec![];
        encode_control(&mut bytes, &ClientMessage::Hello(Hello::ours()));
        encode_control(&mut bytes, request);
        stream.write_all(&bytes).map_err(SessionError::Connection)?;
        let stream = BufReader::with_capacity(bytes_ahead, stream);
        let agent = None;
        Ok(Self { stream, agent })
    }

    /// What comes next.
    pub(crate) fn next(&mut self) -> Result<Said, SessionError> {
        loop {
            let frame = read_frame(&mut self.stream).map_err(|error| match error {
                ReadFrameError::Closed => SessionError::GuestGone,
                ReadFrameError::Read(error) => SessionError::Connection(error),
                ReadFrameError::Frame(error) => SessionError::Protocol(error),
            })?;
            if let Some(said) = take(&mut self.agent, frame)? {
                return Ok(said);
            }
        }
    }

    /// Says a frame.
    pub(crate) fn say(&mut self, frame: &Frame) -> Result<(), SessionError> {
        let mut bytes = vec![];
        encode_frame(&mut bytes, frame);
        let written = self.stream.get_mut().write_all(&bytes);
        written.map_err(SessionError::Connection)
    }

    /// The stream, of one that was begun exactly.
    pub(crate) fn into_stream(self) -> Result<UnixStream, SessionError> {
        if self.stream.buffer().is_empty() {
            Ok(self.stream.into_inner())
        } else {
            Err(SessionError::Unexpected)
        }
    }
}

/// What a frame says; `None` for a hello, which is kept.
pub(crate) fn take(agent: &mut Option<Hello>, frame: Frame) -> Result<Option<Said>, SessionError> {
    let json = match frame {
        Frame::Record(stream, at, bytes) => return Ok(Some(Said::Record(stream, at, bytes))),
        Frame::Control(json) => json,
        Frame::Data(..) | Frame::Credit(..) => return Err(SessionError::Unexpected),
    };
    match Frame::parse(&json).map_err(SessionError::Protocol)? {
        AgentMessage::Hello(hello) => {
            *agent = Some(hello);
            Ok(None)
        }
        AgentMessage::Session(reply) => Ok(Some(Said::Session(reply))),
        AgentMessage::Forward(reply) => Ok(Some(Said::Forward(reply))),
        AgentMessage::Error(error) => Err(match agent {
            Some(hello) if error.code == AgentErrorCode::Unsupported => SessionError::Outdated {
                version: hello.version.clone(),
            },
            _ => SessionError::Refused(error),
        }),
        _ => Err(SessionError::Unexpected),
    }
}
