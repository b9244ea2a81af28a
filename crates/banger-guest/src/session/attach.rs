//! Being attached to a session: `stdio_mux_v1`. One poll loop between the caller's descriptors and
//! the connection; outputs are written in the order in which they come.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use banger_guest_proto::{
    AttachRequest, ClientMessage, Frame, Hello, MAX_DATA, ReceiveWindow, SendWindow, Sequence,
    SessionInfo, SessionReply, SessionRequest, StdinMode, Stream, encode_control, encode_data,
    encode_frame,
};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::{Said, SessionError, take};
use crate::exec::signals::{Signals, is_resize};
use crate::link::Link;
use crate::terminal::{RawMode, size_of};

/// A pipe that polls writable takes this much without blocking (pipe(7): a free page).
const STEP: usize = 4096;

/// Ctrl-], which detaches from a session on a terminal.
pub const DETACH_KEY: u8 = 0x1d;

/// The caller's side.
#[derive(Debug, Clone, Copy)]
pub struct AttachIo<'a> {
    /// Read from until it ends, when there is one.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output, with a terminal both outputs.
    pub stdout: BorrowedFd<'a>,
    /// Standard error.
    pub stderr: BorrowedFd<'a>,
}

/// How being attached ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachEnd {
    /// The session has ended.
    Ended(SessionInfo),
    /// Somebody else has taken over.
    TakenOver,
    /// The caller wanted it: by a signal of that number, else by the key, or by closing its output.
    Detached {
        /// The signal.
        signal: Option<i32>,
    },
}

/// What happens meanwhile that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachNote {
    /// The caller is attached.
    Attached(SessionInfo),
    /// These bytes are lost.
    Gap {
        /// The first.
        from: u64,
        /// After the last.
        to: u64,
    },
    /// The program was started again.
    Restarted {
        /// How often it was started now.
        runs: u32,
    },
}

/// Attaches to a session until it ends or somebody ends it. `next` is kept at the position to go on
/// from, so that it is known when the connection is lost.
///
/// # Errors
/// [`SessionError`] when the agent refuses, is too old, or is gone.
pub fn attach(
    stream: UnixStream,
    request: &AttachRequest,
    io: AttachIo<'_>,
    next: &mut Option<u64>,
    note: &mut dyn FnMut(AttachNote),
) -> Result<AttachEnd, SessionError> {
    let signals = Signals::watch(true).map_err(SessionError::Signals)?;
    let mut request = request.clone();
    let ends = [Some(io.stdout), io.stdin, Some(io.stderr)];
    request.tty = ends.into_iter().flatten().find_map(size_of);
    let mut pump = Pump::new(stream, &request, io, &signals)?;
    let result = pump.run(note);
    *next = pump.written;
    // The agent shall know what was taken; it may be gone.
    let _ = pump.give_credit().and_then(|()| pump.send());
    result
}

/// Bytes on their way to one of the outputs.
struct Piece {
    stream: Stream,
    position: u64,
    bytes: Vec<u8>,
    written: usize,
}

struct Pump<'a> {
    link: Link,
    agent: Option<Hello>,
    io: AttachIo<'a>,
    stdin_open: bool,
    stdin_window: SendWindow,
    pieces: VecDeque<Piece>,
    window: ReceiveWindow,
    sequence: Option<Sequence>,
    /// The position after what was written.
    written: Option<u64>,
    raw: Option<RawMode>,
    signals: &'a Signals,
    buffer: Box<[u8]>,
}

impl<'a> Pump<'a> {
    fn new(
        connection: UnixStream,
        request: &AttachRequest,
        io: AttachIo<'a>,
        signals: &'a Signals,
    ) -> Result<Self, SessionError> {
        let request = SessionRequest::Attach(request.clone());
        let link = Link::new(connection, &ClientMessage::Session(request));
        let link = link.map_err(SessionError::Connection)?;
        Ok(Self {
            link,
            agent: None,
            io,
            stdin_open: false,
            stdin_window: SendWindow::default(),
            pieces: VecDeque::new(),
            window: ReceiveWindow::default(),
            sequence: None,
            written: None,
            raw: None,
            signals,
            buffer: vec![0; MAX_DATA].into_boxed_slice(),
        })
    }

    fn run(&mut self, note: &mut dyn FnMut(AttachNote)) -> Result<AttachEnd, SessionError> {
        let mut end = None;
        loop {
            if self.pieces.is_empty()
                && let Some(end) = end
            {
                return Ok(end);
            }
            self.give_credit()?;
            self.send()?;
            let ready = self.wait(end.is_none())?;
            if ready.signals
                && let Some(number) = self.take_signals()
            {
                let signal = Some(number);
                return Ok(AttachEnd::Detached { signal });
            }
            if ready.connection {
                end = self.receive(note)?;
            }
            if ready.output && self.write()? {
                return Ok(AttachEnd::Detached { signal: None });
            }
            if ready.stdin && self.read_stdin()? {
                return Ok(AttachEnd::Detached { signal: None });
            }
        }
    }

    fn output(&self) -> Option<BorrowedFd<'a>> {
        self.pieces.front().map(|piece| match piece.stream {
            Stream::Stderr => self.io.stderr,
            Stream::Stdin | Stream::Stdout => self.io.stdout,
        })
    }

    fn wait(&self, listening: bool) -> Result<Ready, SessionError> {
        let mut on_connection = PollFlags::empty();
        if listening {
            on_connection |= PollFlags::IN;
        }
        if self.link.outbox.backlog() > 0 {
            on_connection |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN)];
        let mut add = |fd: Option<BorrowedFd<'a>>, flags| {
            fds.push(PollFd::from_borrowed_fd(fd?, flags));
            Some(fds.len() - 1)
        };
        let output = add(self.output(), PollFlags::OUT);
        let room = self.link.outbox.has_room() && self.stdin_window.left() > 0;
        let stdin = self.io.stdin.filter(|_| self.stdin_open && room);
        let stdin = add(stdin, PollFlags::IN);
        let at = fds.len();
        if !on_connection.is_empty() {
            fds.push(PollFd::new(&self.link.stream, on_connection));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(SessionError::Connection(error.into())),
        }
        let is_ready = |place: Option<usize>| place.is_some_and(|at| !fds[at].revents().is_empty());
        let in_or_end = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        let connection = fds.get(at).map_or(PollFlags::empty(), PollFd::revents);
        Ok(Ready {
            signals: is_ready(Some(0)),
            output: is_ready(output),
            stdin: is_ready(stdin),
            connection: listening && connection.intersects(in_or_end),
        })
    }

    /// Sends what the connection takes. Without an agent no more input is wanted.
    fn send(&mut self) -> Result<(), SessionError> {
        if !self.link.send().map_err(SessionError::Connection)? {
            self.stdin_open = false;
        }
        Ok(())
    }

    /// Tells what was written: the agent keeps the rest for whoever comes next.
    fn give_credit(&mut self) -> Result<(), SessionError> {
        if let Some(count) = self.window.owed() {
            encode_frame(
                self.link.outbox.frames(),
                &Frame::Credit(Stream::Stdout, count),
            );
        }
        Ok(())
    }

    fn receive(
        &mut self,
        note: &mut dyn FnMut(AttachNote),
    ) -> Result<Option<AttachEnd>, SessionError> {
        self.link.receive(&mut self.buffer)?;
        while let Some(frame) = self.link.decoded().map_err(SessionError::Protocol)? {
            if let Frame::Credit(Stream::Stdin, count) = frame {
                self.stdin_window.granted(count);
                continue;
            }
            let said = take(&mut self.agent, frame)?;
            if let Some(said) = said
                && let Some(end) = self.take(said, note)?
            {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    fn take(
        &mut self,
        said: Said,
        note: &mut dyn FnMut(AttachNote),
    ) -> Result<Option<AttachEnd>, SessionError> {
        let Some(sequence) = &mut self.sequence else {
            let Said::Session(SessionReply::Attached { info, from, .. }) = said else {
                return Err(SessionError::Unexpected);
            };
            self.sequence = Some(Sequence::new(from, false));
            self.written = Some(from);
            self.begin(&info)?;
            note(AttachNote::Attached(info));
            return Ok(None);
        };
        match said {
            Said::Record(stream, position, bytes) => {
                let fits = sequence.record(position, bytes.len());
                fits.map_err(SessionError::Sequence)?;
                let received = self.window.received(bytes.len());
                received.map_err(SessionError::Window)?;
                self.pieces.push_back(Piece {
                    stream,
                    position,
                    bytes,
                    written: 0,
                });
                Ok(None)
            }
            Said::Session(SessionReply::Gap { from, to }) => {
                sequence.gap(from, to).map_err(SessionError::Sequence)?;
                note(AttachNote::Gap { from, to });
                Ok(None)
            }
            Said::Session(SessionReply::Restarted { runs }) => {
                note(AttachNote::Restarted { runs });
                Ok(None)
            }
            Said::Session(SessionReply::TakenOver) => Ok(Some(AttachEnd::TakenOver)),
            Said::Session(SessionReply::Ended(info)) => Ok(Some(AttachEnd::Ended(info))),
            _ => Err(SessionError::Unexpected),
        }
    }

    /// Input may flow now.
    fn begin(&mut self, info: &SessionInfo) -> Result<(), SessionError> {
        let Some(stdin) = self.io.stdin else {
            return Ok(());
        };
        self.stdin_open = true;
        if info.stdin_mode == StdinMode::Pty && rustix::termios::isatty(stdin) {
            let raw = RawMode::enter(stdin);
            self.raw = Some(raw.map_err(|error| SessionError::Terminal(error.into()))?);
        }
        Ok(())
    }

    /// Writes what one write takes; whether the output's reader is gone.
    fn write(&mut self) -> Result<bool, SessionError> {
        let (Some(fd), Some(piece)) = (self.output(), self.pieces.front_mut()) else {
            return Ok(false);
        };
        let rest = &piece.bytes[piece.written..];
        match rustix::io::write(fd, &rest[..rest.len().min(STEP)]) {
            Ok(count) => {
                piece.written += count;
                self.written = Some(piece.position + piece.written as u64);
                let done = piece.written == piece.bytes.len();
                self.window.took(count);
                if done {
                    self.pieces.pop_front();
                }
                Ok(false)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::PIPE) => Ok(true),
            Err(error) => Err(SessionError::Local {
                stream: match piece.stream {
                    Stream::Stderr => "standard error",
                    Stream::Stdin | Stream::Stdout => "standard output",
                },
                source: io::Error::from(error),
            }),
        }
    }

    /// Passes input on; whether the key to detach was among it.
    fn read_stdin(&mut self) -> Result<bool, SessionError> {
        let Some(stdin) = self.io.stdin else {
            return Ok(false);
        };
        let most = self.stdin_window.left().min(self.buffer.len());
        match rustix::io::read(stdin, &mut self.buffer[..most]) {
            Ok(count @ 1..) => {
                let bytes = &self.buffer[..count];
                let key = self.raw.as_ref().and_then(|_| detach_at(bytes));
                let bytes = &bytes[..key.unwrap_or(count)];
                self.stdin_window.sent(bytes.len());
                encode_data(self.link.outbox.frames(), Stream::Stdin, bytes);
                return Ok(key.is_some());
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Its end; also closed by whoever started the caller, or a terminal that hung up.
            Ok(_) | Err(Errno::BADF | Errno::IO) => {
                self.stdin_open = false;
                encode_control(self.link.outbox.frames(), &ClientMessage::StdinEof);
            }
            Err(error) => {
                return Err(SessionError::Local {
                    stream: "standard input",
                    source: io::Error::from(error),
                });
            }
        }
        Ok(false)
    }

    /// The signal that ends it, when one has come.
    fn take_signals(&mut self) -> Option<i32> {
        for number in self.signals.take() {
            if !is_resize(number) {
                return Some(number);
            }
            let ends = [Some(self.io.stdout), self.io.stdin];
            if let Some(size) = ends.into_iter().flatten().find_map(size_of) {
                encode_control(self.link.outbox.frames(), &ClientMessage::Resize(size));
            }
        }
        None
    }
}

fn detach_at(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == DETACH_KEY)
}

/// Which descriptors have something to do.
struct Ready {
    signals: bool,
    output: bool,
    stdin: bool,
    connection: bool,
}
