//! One program's run: a single poll loop between the connection and the program's streams.
//!
//! Each stream is bounded by its window and stands for itself: the connection is always read, so a
//! program that does not take its input holds up neither signals nor output, and a client that does
//! not take the output holds up neither signals nor input.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use banger_guest_proto::{
    AgentMessage, ClientMessage, ExecRequest, ExitStatus, Frame, MAX_DATA, Outbox, ReceiveWindow,
    SendWindow, Stream, encode_control, encode_data, encode_frame,
};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::connection::Connection;
use super::exit::exit_status;
use super::linger::linger;
use super::start::{self, Program};
use super::state::State;

/// End of input on a terminal (termios(3), VEOF).
const CONTROL_D: u8 = 4;

struct Output {
    fd: Option<OwnedFd>,
    stream: Stream,
    window: SendWindow,
}

struct Session<'a> {
    connection: &'a mut Connection,
    outbox: Outbox,
    pid: Pid,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdin_waiting: VecDeque<u8>,
    stdin_window: ReceiveWindow,
    stdin_ended: bool,
    outputs: [Output; 2],
    exited: Option<ExitStatus>,
    buffer: Box<[u8]>,
}

/// Starts the program and serves it until it has ended, or until the client is gone.
pub(super) fn run(
    connection: &mut Connection,
    request: ExecRequest,
    state: &State,
) -> io::Result<()> {
    let program = match start::start(&request, state) {
        Ok(program) => program,
        Err(refusal) => {
            connection.send(&refusal)?;
            linger(connection);
            return Ok(());
        }
    };
    let pid = program.pid;
    let mut session = match Session::new(connection, program) {
        Ok(session) => session,
        Err(error) => {
            state.session_ended(pid);
            return Err(error);
        }
    };
    let result = session.serve();
    if result.is_err() && session.exited.is_none() {
        session.hang_up();
    }
    state.session_ended(pid);
    if result.is_ok() {
        linger(session.connection);
    }
    result
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

impl<'a> Session<'a> {
    fn new(connection: &'a mut Connection, program: Program) -> io::Result<Self> {
        let streams = [&program.stdin, &program.stdout, &program.stderr];
        for fd in streams.into_iter().flatten() {
            nonblocking(fd)?;
        }
        rustix::io::ioctl_fionbio(&connection.stream, true)?;
        let mut outbox = Outbox::default();
        let pid = program.pid.as_raw_nonzero().get().unsigned_abs();
        encode_control(outbox.frames(), &AgentMessage::ExecStarted { pid });
        let output = |fd, stream| Output {
            fd,
            stream,
            window: SendWindow::default(),
        };
        Ok(Self {
            connection,
            outbox,
            pid: program.pid,
            pidfd: program.pidfd,
            terminal: program.terminal,
            stdin: program.stdin,
            stdin_waiting: VecDeque::new(),
            stdin_window: ReceiveWindow::default(),
            stdin_ended: false,
            outputs: [
                output(program.stdout, Stream::Stdout),
                output(program.stderr, Stream::Stderr),
            ],
            exited: None,
            buffer: vec![0; MAX_DATA].into_boxed_slice(),
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        // What came together with the request.
        self.take_frames()?;
        loop {
            self.connection.send_some(&mut self.outbox)?;
            if self.exited.is_some() && self.outputs.iter().all(|output| output.fd.is_none()) {
                return self.finish();
            }
            let ready = self.wait()?;
            if ready.connection {
                self.receive()?;
            }
            if ready.stdin {
                self.feed()?;
            }
            // Looked at before the outputs: what they hold then, is all that the program wrote.
            if ready.exited && self.exited.is_none() {
                self.exited = self.reap();
            }
            for at in 0..self.outputs.len() {
                if ready.outputs[at] || self.exited.is_some() {
                    self.read_output(at);
                }
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut on_connection = PollFlags::IN;
        if self.outbox.backlog() > 0 {
            on_connection |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(&self.connection.stream, on_connection)];
        let exit = self.exited.is_none().then_some(&self.pidfd);
        let exit = add(&mut fds, exit, PollFlags::IN);
        let hungry = !self.stdin_waiting.is_empty();
        let stdin = self.stdin.as_ref().filter(|_| hungry);
        let stdin = add(&mut fds, stdin, PollFlags::OUT);
        let room = self.outbox.has_room();
        let outputs = [0, 1].map(|at| {
            let output = &self.outputs[at];
            let open = room && output.window.left() > 0;
            let output = output.fd.as_ref().filter(|_| open);
            add(&mut fds, output, PollFlags::IN)
        });
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |place: Option<usize>| place.is_some_and(|at| !fds[at].revents().is_empty());
        Ok(Ready {
            connection: fds[0]
                .revents()
                .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            exited: is_ready(exit),
            stdin: is_ready(stdin),
            outputs: outputs.map(is_ready),
        })
    }

    fn receive(&mut self) -> io::Result<()> {
        if self.connection.receive(&mut self.buffer[..])? {
            self.take_frames()?;
        }
        Ok(())
    }

    fn take_frames(&mut self) -> io::Result<()> {
        while let Some(frame) = self.connection.decoded()? {
            self.take_frame(frame)?;
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::Data(Stream::Stdin, bytes) => {
                let received = self.stdin_window.received(bytes.len());
                received.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                if self.stdin.is_some() && !self.stdin_ended {
                    self.stdin_waiting.extend(bytes);
                    self.feed()?;
                } else {
                    // The program reads no more; the sender may go on to its end.
                    self.give_credit(bytes.len());
                }
            }
            Frame::Credit(stream, count) => {
                for output in &mut self.outputs {
                    if output.stream == stream {
                        output.window.granted(count);
                    }
                }
            }
            Frame::Data(..) | Frame::Record(..) => return Err(io::ErrorKind::InvalidData.into()),
            Frame::Control(json) => {
                // Else from a newer client; it knows our generation, so it is nothing we need.
                if let Ok(message) = Frame::parse(&json) {
                    self.take_message(message);
                }
            }
        }
        Ok(())
    }

    fn take_message(&mut self, message: ClientMessage) {
        match message {
            ClientMessage::StdinEof => {
                self.stdin_ended = true;
                if self.terminal.is_some() {
                    self.stdin_waiting.push_back(CONTROL_D);
                }
                self.close_finished_stdin();
            }
            ClientMessage::Resize(size) => {
                if let Some(master) = &self.terminal {
                    let _ = banger_login::resize(master, size);
                }
            }
            ClientMessage::Signal { number } => self.signal(number),
            ClientMessage::CloseOutput { stream } => {
                for output in &mut self.outputs {
                    if output.stream == stream {
                        output.fd = None;
                    }
                }
            }
            _ => {}
        }
    }

    /// To the whole process group: on a terminal the one in the foreground.
    fn signal(&self, number: i32) {
        let foreground = self.terminal.as_ref().and_then(|fd| {
            let group = rustix::termios::tcgetpgrp(fd).ok()?;
            // Zero when nobody is in the foreground.
            Some(group)
        });
        let group = foreground.unwrap_or(self.pid);
        if self.exited.is_none()
            && let Some(signal) = Signal::from_named_raw(number)
        {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Passes input on to the program, as much as it takes now.
    fn feed(&mut self) -> io::Result<()> {
        while let Some(stdin) = &self.stdin {
            let (first, _) = self.stdin_waiting.as_slices();
            if first.is_empty() {
                break;
            }
            match rustix::io::write(stdin, first) {
                Ok(count) => {
                    self.stdin_waiting.drain(..count);
                    self.give_credit(count);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // It has closed its input; that is its right, and no error.
                Err(_) => {
                    self.stdin = None;
                    let dropped = self.stdin_waiting.len();
                    self.stdin_waiting.clear();
                    self.give_credit(dropped);
                }
            }
        }
        self.close_finished_stdin();
        Ok(())
    }

    fn close_finished_stdin(&mut self) {
        if self.stdin_ended && self.terminal.is_none() && self.stdin_waiting.is_empty() {
            self.stdin = None;
        }
    }

    fn give_credit(&mut self, bytes: usize) {
        if let Some(count) = self.stdin_window.consumed(bytes) {
            encode_frame(self.outbox.frames(), &Frame::Credit(Stream::Stdin, count));
        }
    }

    /// Reads what an output has now. After the program's exit, an output that has nothing more is
    /// done, even if something that the program left behind still holds it.
    fn read_output(&mut self, at: usize) {
        while self.outbox.has_room() {
            let output = &mut self.outputs[at];
            let most = output.window.left().min(self.buffer.len());
            let Some(fd) = output.fd.as_ref().filter(|_| most > 0) else {
                return;
            };
            if self.exited.is_some() && !banger_login::has_input(fd) {
                self.output_ended(at);
                return;
            }
            match rustix::io::read(fd, &mut self.buffer[..most]) {
                Ok(0) => return self.output_ended(at),
                Ok(count) => {
                    output.window.sent(count);
                    encode_data(self.outbox.frames(), output.stream, &self.buffer[..count]);
                }
                Err(Errno::AGAIN | Errno::INTR) => return,
                // A terminal whose other end is closed says EIO.
                Err(_) => return self.output_ended(at),
            }
        }
    }

    fn output_ended(&mut self, at: usize) {
        self.outputs[at].fd = None;
        let message = match self.outputs[at].stream {
            Stream::Stderr => AgentMessage::StderrEof,
            _ => AgentMessage::StdoutEof,
        };
        encode_control(self.outbox.frames(), &message);
    }

    fn reap(&self) -> Option<ExitStatus> {
        exit_status(&self.pidfd, WaitIdOptions::empty())
    }

    /// Sends the last message.
    fn finish(&mut self) -> io::Result<()> {
        if let Some(status) = self.exited {
            encode_control(self.outbox.frames(), &AgentMessage::Exited(status));
        }
        while self.outbox.backlog() > 0 {
            self.connection.send_some(&mut self.outbox)?;
            if self.outbox.backlog() > 0 {
                let ready = self.wait()?;
                if ready.connection {
                    self.receive()?;
                }
            }
        }
        Ok(())
    }

    /// The client is gone: the program sees its terminal or pipes close, and gets SIGHUP as it would
    /// from a lost login. What ignores that lives on, and is reaped here.
    fn hang_up(&mut self) {
        self.stdin = None;
        self.terminal = None;
        for output in &mut self.outputs {
            output.fd = None;
        }
        let _ = rustix::process::kill_process_group(self.pid, Signal::HUP);
        let _ = rustix::process::kill_process_group(self.pid, Signal::CONT);
        let options = WaitIdOptions::EXITED;
        while let Err(Errno::INTR) =
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)
        {}
    }
}

/// Where in the list the descriptor stands, when there is one.
pub(super) fn add<'fd>(
    fds: &mut Vec<PollFd<'fd>>,
    fd: Option<&'fd OwnedFd>,
    flags: PollFlags,
) -> Option<usize> {
    fds.push(PollFd::from_borrowed_fd(fd?.as_fd(), flags));
    Some(fds.len() - 1)
}

struct Ready {
    connection: bool,
    exited: bool,
    stdin: bool,
    outputs: [bool; 2],
}
