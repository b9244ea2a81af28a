//! One client's connection: questions, one after the other, until it hangs up or starts a program.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use banger_guest_proto::{
    AgentError, AgentErrorCode, AgentMessage, ClientMessage, Decoder, Frame, Hello, Outbox,
    Readiness, encode_control,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::state::State;
use super::{ending, figures, files, forward, listeners, session, sessions};

/// How often a waiting client is looked at: whether it is still there.
const LOOK: Duration = Duration::from_millis(500);

/// The bytes of a connection that has not become an exec.
pub(super) struct Connection {
    pub(super) stream: std::fs::File,
    pub(super) decoder: Decoder,
}

/// Serves a client until it hangs up, or its program has ended.
pub(super) fn serve(stream: OwnedFd, state: &Arc<State>) {
    let mut connection = Connection {
        stream: stream.into(),
        decoder: Decoder::default(),
    };
    // A connection that breaks has nobody to be told.
    let _ = connection.run(state);
}

pub(super) fn error(code: AgentErrorCode, message: impl Into<String>) -> AgentMessage {
    AgentMessage::Error(AgentError {
        code,
        message: message.into(),
        hint: None,
    })
}

impl Connection {
    fn run(&mut self, state: &Arc<State>) -> io::Result<()> {
        self.send(&AgentMessage::Hello(Hello::ours()))?;
        let mut greeted = false;
        while let Some(frame) = self.next_frame()? {
            let Frame::Control(json) = frame else {
                // Data that was under way when a program could not be started.
                continue;
            };
            let message = match Frame::parse(&json) {
                Ok(message) => message,
                Err(_) => {
                    let what = "the agent does not know this request; it may be older";
                    self.send(&error(AgentErrorCode::Unsupported, what))?;
                    continue;
                }
            };
            if !greeted && !matches!(message, ClientMessage::Hello(_)) {
                let what = "the first message of a connection is a hello";
                return self.send(&error(AgentErrorCode::BadRequest, what));
            }
            match message {
                ClientMessage::Hello(_) => greeted = true,
                ClientMessage::Ping => self.send(&AgentMessage::Pong)?,
                ClientMessage::Status => self.send(&AgentMessage::Status(state.status()))?,
                ClientMessage::Wait { readiness } => self.wait(state, readiness)?,
                ClientMessage::Shutdown { verb } => match ending::begin(state, verb) {
                    Ok(()) => self.send(&AgentMessage::ShuttingDown)?,
                    Err(what) => self.send(&error(AgentErrorCode::Internal, what))?,
                },
                ClientMessage::Listeners => {
                    self.send(&AgentMessage::Listeners(listeners::find()))?;
                }
                ClientMessage::Figures => self.send(&AgentMessage::Figures(figures::read()))?,
                ClientMessage::GetFiles(request) => return files::get(self, &request),
                ClientMessage::GetPaths(request) => return files::get_paths(self, &request),
                ClientMessage::PutFiles(request) => return files::put(self, &request),
                ClientMessage::Exec(request) => return session::run(self, request, state),
                ClientMessage::Session(request) => {
                    if sessions::serve(self, request, state)? {
                        return Ok(());
                    }
                }
                ClientMessage::Forward(request) => {
                    if forward::serve(self, request, state)? {
                        return Ok(());
                    }
                }
                ClientMessage::SetEnvironment { variables } => {
                    self.send(&state.environment().set(variables))?;
                }
                ClientMessage::StdinEof
                | ClientMessage::Resize(_)
                | ClientMessage::Signal { .. }
                | ClientMessage::CloseOutput { .. } => {}
            }
        }
        Ok(())
    }

    /// Answers when the guest is that far. A client that hangs up meanwhile is noticed.
    fn wait(&mut self, state: &State, readiness: Readiness) -> io::Result<()> {
        while !state.wait(readiness, LOOK) {
            if self.is_gone() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        self.send(&AgentMessage::Status(state.status()))
    }

    /// Whether the client has hung up. What it says meanwhile is left to be read.
    pub(super) fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let now = Timespec::default();
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
    }

    /// Sends what the connection takes now; it does not block.
    pub(super) fn send_some(&self, outbox: &mut Outbox) -> io::Result<()> {
        outbox.send(|bytes| {
            rustix::net::send(&self.stream, bytes, SendFlags::NOSIGNAL).map_err(Into::into)
        })
    }

    /// Reads what has come of a connection that does not block, for [`Connection::decoded`]; whether
    /// something has. That the client hung up is an error.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match rustix::io::read(&self.stream, &mut *buffer) {
            Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
            Ok(count) => {
                self.decoder.push(&buffer[..count]);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The next frame of what has come.
    pub(super) fn decoded(&mut self) -> io::Result<Option<Frame>> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        self.decoder.next_frame().map_err(invalid)
    }

    pub(super) fn send(&mut self, message: &AgentMessage) -> io::Result<()> {
        let mut bytes = vec![];
        encode_control(&mut bytes, message);
        self.stream.write_all(&bytes)
    }

    fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let mut buffer = [0; 4096];
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => {
                    self.send(&self::error(AgentErrorCode::BadRequest, error.to_string()))?;
                    return Ok(None);
                }
            }
            match rustix::io::read(self.stream.as_fd(), &mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
