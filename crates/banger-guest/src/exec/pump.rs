//! The poll loop between the caller's descriptors and the connection.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use banger_guest_proto::{
    AgentMessage, ClientMessage, ExecRequest, ExitStatus, Frame, MAX_DATA, SendWindow, Stream,
    encode_control, encode_data, encode_frame,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::output::{Output, Written};
use super::signals::{self, Signals};
use super::{ExecError, ExecIo};
use crate::link::Link;
use crate::terminal;

/// One running exec.
pub(super) struct Pump<'a> {
    link: Link,
    io: ExecIo<'a>,
    stdin_open: bool,
    stdin_window: SendWindow,
    outputs: [Output<'a>; 2],
    signals: &'a Signals,
    bridge: Option<Bridge>,
    buffer: Box<[u8]>,
}

/// What is different for a program that is one end of a protocol, and its caller the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bridge {
    /// How long the program may go on without its caller.
    patience: Duration,
    /// It has said something; before that, the caller's words are left to be read.
    heard: bool,
    /// When it must have ended.
    until: Option<Instant>,
}

impl Bridge {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            heard: false,
            until: None,
        }
    }
}

/// What has come of one message.
enum Step {
    Continue,
    Done(ExitStatus),
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        connection: UnixStream,
        request: &ExecRequest,
        io: ExecIo<'a>,
        signals: &'a Signals,
        bridge: Option<Bridge>,
    ) -> Result<Self, ExecError> {
        let link = Link::new(connection, &ClientMessage::Exec(request.clone()));
        let link = link.map_err(ExecError::Connection)?;
        Ok(Self {
            link,
            io,
            stdin_open: !request.no_stdin,
            stdin_window: SendWindow::default(),
            outputs: [
                Output::new(io.stdout, Stream::Stdout),
                Output::new(io.stderr, Stream::Stderr),
            ],
            signals,
            bridge,
            buffer: vec![0; MAX_DATA].into_boxed_slice(),
        })
    }

    /// Runs until the program has ended and its output is passed on.
    pub(super) fn run(mut self) -> Result<ExitStatus, ExecError> {
        loop {
            self.send()?;
            let ready = self.wait()?;
            if self.is_overdue() {
                return Err(ExecError::Overdue);
            }
            if ready.signals {
                self.take_signals()?;
            }
            if ready.connection
                && let Step::Done(status) = self.receive()?
            {
                for output in &mut self.outputs {
                    output.finish()?;
                }
                return Ok(status);
            }
            for (at, writable) in ready.outputs.into_iter().enumerate() {
                if writable {
                    self.write_output(at)?;
                }
            }
            if ready.stdin {
                self.read_stdin()?;
            }
        }
    }

    fn wait(&self) -> Result<Ready, ExecError> {
        let mut on_connection = PollFlags::IN;
        if self.link.outbox.backlog() > 0 {
            on_connection |= PollFlags::OUT;
        }
        let mut fds = vec![
            PollFd::new(&self.link.stream, on_connection),
            PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN),
        ];
        let mut places = [None; 3];
        for (at, output) in self.outputs.iter().enumerate() {
            if output.is_waiting() {
                places[at] = Some(fds.len());
                fds.push(PollFd::from_borrowed_fd(output.fd(), PollFlags::OUT));
            }
        }
        let room = self.link.outbox.has_room() && self.stdin_window.left() > 0;
        if self.stdin_open && (room || !self.hears()) {
            places[2] = Some(fds.len());
            // That it was closed is seen in any case.
            let wanted = if self.hears() {
                PollFlags::IN
            } else {
                PollFlags::empty()
            };
            fds.push(PollFd::from_borrowed_fd(self.io.stdin, wanted));
        }
        let until = self.bridge.and_then(|bridge| bridge.until);
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(ExecError::Connection(error.into())),
        }
        let is_ready = |place: Option<usize>| place.is_some_and(|at| !fds[at].revents().is_empty());
        let in_or_end = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        Ok(Ready {
            connection: fds[0].revents().intersects(in_or_end),
            signals: is_ready(Some(1)),
            outputs: [is_ready(places[0]), is_ready(places[1])],
            stdin: is_ready(places[2]),
        })
    }

    /// Whether the caller is listened to.
    fn hears(&self) -> bool {
        self.bridge.is_none_or(|bridge| bridge.heard)
    }

    fn is_overdue(&self) -> bool {
        let until = self.bridge.and_then(|bridge| bridge.until);
        until.is_some_and(|until| Instant::now() >= until)
    }

    /// The caller is gone, or wants the end: the program may not go on for long.
    fn caller_is_gone(&mut self) {
        if let Some(bridge) = &mut self.bridge {
            bridge.until.get_or_insert(Instant::now() + bridge.patience);
        }
    }

    /// Sends what the connection takes. Without an agent no more input is wanted.
    fn send(&mut self) -> Result<(), ExecError> {
        if !self.link.send().map_err(ExecError::Connection)? {
            self.stdin_open = false;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Step, ExecError> {
        self.link.receive(&mut self.buffer)?;
        while let Some(frame) = self.link.decoded().map_err(ExecError::Protocol)? {
            if let Step::Done(status) = self.take_frame(frame)? {
                return Ok(Step::Done(status));
            }
        }
        Ok(Step::Continue)
    }

    fn take_frame(&mut self, frame: Frame) -> Result<Step, ExecError> {
        match frame {
            Frame::Data(Stream::Stdin, _) | Frame::Record(..) => return Err(ExecError::Unexpected),
            Frame::Data(stream, bytes) => {
                let at = usize::from(stream == Stream::Stderr);
                if let Some(bridge) = &mut self.bridge {
                    bridge.heard |= stream == Stream::Stdout;
                }
                let credit = self.outputs[at].push(&bytes)?;
                self.give_credit(stream, credit);
            }
            Frame::Credit(Stream::Stdin, count) => self.stdin_window.granted(count),
            Frame::Credit(..) => return Err(ExecError::Unexpected),
            Frame::Control(json) => match Frame::parse(&json).map_err(ExecError::Protocol)? {
                AgentMessage::Exited(status) => return Ok(Step::Done(status)),
                AgentMessage::Error(error) => return Err(ExecError::Refused(error)),
                AgentMessage::Hello(_)
                | AgentMessage::ExecStarted { .. }
                | AgentMessage::StdoutEof
                | AgentMessage::StderrEof => {}
                AgentMessage::Pong
                | AgentMessage::Status(_)
                | AgentMessage::Listeners(_)
                | AgentMessage::Figures(_)
                | AgentMessage::FilesDone(_)
                | AgentMessage::Session(_)
                | AgentMessage::Forward(_)
                | AgentMessage::EnvironmentSet
                | AgentMessage::ShuttingDown => return Err(ExecError::Unexpected),
            },
        }
        Ok(Step::Continue)
    }

    fn give_credit(&mut self, stream: Stream, credit: Option<u32>) {
        if let Some(count) = credit {
            encode_frame(self.link.outbox.frames(), &Frame::Credit(stream, count));
        }
    }

    fn write_output(&mut self, at: usize) -> Result<(), ExecError> {
        let stream = self.outputs[at].stream();
        match self.outputs[at].write_some()? {
            Written::Passed(credit) => self.give_credit(stream, credit),
            Written::ReaderGone(credit) => {
                if stream == Stream::Stdout {
                    self.caller_is_gone();
                }
                encode_control(
                    self.link.outbox.frames(),
                    &ClientMessage::CloseOutput { stream },
                );
                self.give_credit(stream, credit);
            }
        }
        Ok(())
    }

    fn read_stdin(&mut self) -> Result<(), ExecError> {
        if !self.hears() {
            self.end_stdin();
            return Ok(());
        }
        let most = self.stdin_window.left().min(self.buffer.len());
        match rustix::io::read(self.io.stdin, &mut self.buffer[..most]) {
            Ok(0) => self.end_stdin(),
            Ok(count) => {
                self.stdin_window.sent(count);
                encode_data(
                    self.link.outbox.frames(),
                    Stream::Stdin,
                    &self.buffer[..count],
                );
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Closed by whoever started the caller, or a terminal that hung up.
            Err(Errno::BADF | Errno::IO) => self.end_stdin(),
            Err(error) => {
                return Err(ExecError::Local {
                    stream: "standard input",
                    source: io::Error::from(error),
                });
            }
        }
        Ok(())
    }

    fn end_stdin(&mut self) {
        self.caller_is_gone();
        self.stdin_open = false;
        encode_control(self.link.outbox.frames(), &ClientMessage::StdinEof);
    }

    fn take_signals(&mut self) -> Result<(), ExecError> {
        for number in self.signals.take() {
            if signals::is_resize(number) {
                let size = [self.io.stdout, self.io.stdin].map(terminal::size_of);
                if let Some(size) = size.into_iter().flatten().next() {
                    encode_control(self.link.outbox.frames(), &ClientMessage::Resize(size));
                }
            } else if self.io.tty && signals::ends_a_terminal(number) {
                return Err(ExecError::Interrupted { number });
            } else {
                self.caller_is_gone();
                encode_control(self.link.outbox.frames(), &ClientMessage::Signal { number });
            }
        }
        Ok(())
    }
}

/// Which descriptors have something to do.
struct Ready {
    connection: bool,
    signals: bool,
    outputs: [bool; 2],
    stdin: bool,
}
