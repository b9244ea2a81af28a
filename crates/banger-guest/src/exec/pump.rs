//! The poll loop between the caller's descriptors and the connection.

use std::io;
use std::os::unix::net::UnixStream;

use banger_guest_proto::{
    AgentMessage, ClientMessage, Decoder, ExecRequest, ExitStatus, Frame, Hello, MAX_DATA,
    SendWindow, Stream, encode_control, encode_data, encode_frame,
};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::output::{Output, Written};
use super::signals::{self, Signals};
use super::{ExecError, ExecIo};
use crate::terminal;

/// Standard input is not read while this much waits to be sent.
const SEND_BUFFER: usize = 4 * MAX_DATA;

/// One running exec.
pub(super) struct Pump<'a> {
    connection: UnixStream,
    decoder: Decoder,
    /// To be sent, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    io: ExecIo<'a>,
    stdin_open: bool,
    stdin_window: SendWindow,
    outputs: [Output<'a>; 2],
    signals: &'a Signals,
    buffer: Box<[u8]>,
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
    ) -> Result<Self, ExecError> {
        let nonblocking = connection.set_nonblocking(true);
        nonblocking.map_err(ExecError::Connection)?;
        let mut unsent = vec![];
        encode_control(&mut unsent, &ClientMessage::Hello(Hello::ours()));
        encode_control(&mut unsent, &ClientMessage::Exec(request.clone()));
        Ok(Self {
            connection,
            decoder: Decoder::default(),
            unsent,
            sent: 0,
            io,
            stdin_open: !request.no_stdin,
            stdin_window: SendWindow::default(),
            outputs: [
                Output::new(io.stdout, Stream::Stdout),
                Output::new(io.stderr, Stream::Stderr),
            ],
            signals,
            buffer: vec![0; MAX_DATA].into_boxed_slice(),
        })
    }

    /// Runs until the program has ended and its output is passed on.
    pub(super) fn run(mut self) -> Result<ExitStatus, ExecError> {
        loop {
            self.send()?;
            let ready = self.wait()?;
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
        if self.sent < self.unsent.len() {
            on_connection |= PollFlags::OUT;
        }
        let mut fds = vec![
            PollFd::new(&self.connection, on_connection),
            PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN),
        ];
        let mut places = [None; 3];
        for (at, output) in self.outputs.iter().enumerate() {
            if output.is_waiting() {
                places[at] = Some(fds.len());
                fds.push(PollFd::from_borrowed_fd(output.fd(), PollFlags::OUT));
            }
        }
        let room = self.unsent.len() - self.sent < SEND_BUFFER && self.stdin_window.left() > 0;
        if self.stdin_open && room {
            places[2] = Some(fds.len());
            fds.push(PollFd::from_borrowed_fd(self.io.stdin, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
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

    /// Sends what the connection takes.
    fn send(&mut self) -> Result<(), ExecError> {
        while self.sent < self.unsent.len() {
            let flags = rustix::net::SendFlags::NOSIGNAL;
            match rustix::net::send(&self.connection, &self.unsent[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                // The agent has hung up; why, it said before, and that is still to be read.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.stdin_open = false;
                    self.sent = self.unsent.len();
                }
                Err(error) => return Err(ExecError::Connection(error.into())),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }

    fn receive(&mut self) -> Result<Step, ExecError> {
        match rustix::io::read(&self.connection, &mut self.buffer[..]) {
            Ok(0) => return Err(ExecError::GuestGone),
            Ok(count) => self.decoder.push(&self.buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Step::Continue),
            Err(Errno::CONNRESET) => return Err(ExecError::GuestGone),
            Err(error) => return Err(ExecError::Connection(error.into())),
        }
        while let Some(frame) = self.decoder.next_frame().map_err(ExecError::Protocol)? {
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
                | AgentMessage::ShuttingDown => return Err(ExecError::Unexpected),
            },
        }
        Ok(Step::Continue)
    }

    fn give_credit(&mut self, stream: Stream, credit: Option<u32>) {
        if let Some(count) = credit {
            encode_frame(&mut self.unsent, &Frame::Credit(stream, count));
        }
    }

    fn write_output(&mut self, at: usize) -> Result<(), ExecError> {
        let stream = self.outputs[at].stream();
        match self.outputs[at].write_some()? {
            Written::Passed(credit) => self.give_credit(stream, credit),
            Written::ReaderGone(credit) => {
                encode_control(&mut self.unsent, &ClientMessage::CloseOutput { stream });
                self.give_credit(stream, credit);
            }
        }
        Ok(())
    }

    fn read_stdin(&mut self) -> Result<(), ExecError> {
        let most = self.stdin_window.left().min(self.buffer.len());
        match rustix::io::read(self.io.stdin, &mut self.buffer[..most]) {
            Ok(0) => self.end_stdin(),
            Ok(count) => {
                self.stdin_window.sent(count);
                encode_data(&mut self.unsent, Stream::Stdin, &self.buffer[..count]);
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
        self.stdin_open = false;
        encode_control(&mut self.unsent, &ClientMessage::StdinEof);
    }

    fn take_signals(&mut self) -> Result<(), ExecError> {
        for number in self.signals.take() {
            if signals::is_resize(number) {
                let size = [self.io.stdout, self.io.stdin].map(terminal::size_of);
                if let Some(size) = size.into_iter().flatten().next() {
                    encode_control(&mut self.unsent, &ClientMessage::Resize(size));
                }
            } else if self.io.tty && signals::ends_a_terminal(number) {
                return Err(ExecError::Interrupted { number });
            } else {
                encode_control(&mut self.unsent, &ClientMessage::Signal { number });
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
