//! One forwarded stream: a single poll loop between the connection and a socket in the guest. Each
//! direction is bounded by its window and stands for itself.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use banger_guest_proto::{
    AgentMessage, ClientMessage, Frame, MAX_DATA, Outbox, ReceiveWindow, SendWindow, Stream,
    encode_control, encode_data, encode_frame,
};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};

use crate::agent::connection::Connection;
use crate::agent::linger::linger;

/// A stream each way.
pub(super) struct Relay<'a> {
    connection: &'a mut Connection,
    socket: OwnedFd,
    outbox: Outbox,
    to_socket: VecDeque<u8>,
    to_socket_window: ReceiveWindow,
    /// The host sends no more.
    input_ended: bool,
    /// The host has hung up after that: what it had sent is still passed on.
    hung_up: bool,
    /// The socket takes no more, or was told that no more comes.
    input_closed: bool,
    from_socket_window: SendWindow,
    output_closed: bool,
    buffer: Box<[u8]>,
}

impl<'a> Relay<'a> {
    pub(super) fn new(connection: &'a mut Connection, socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        rustix::io::ioctl_fionbio(&connection.stream, true)?;
        Ok(Self {
            connection,
            socket,
            outbox: Outbox::default(),
            to_socket: VecDeque::new(),
            to_socket_window: ReceiveWindow::default(),
            input_ended: false,
            hung_up: false,
            input_closed: false,
            from_socket_window: SendWindow::default(),
            output_closed: false,
            buffer: vec![0; MAX_DATA].into_boxed_slice(),
        })
    }

    /// Until both directions have ended, or one side is gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.take_frames()?;
        loop {
            if let Err(error) = self.connection.send_some(&mut self.outbox) {
                self.host_is_gone(error)?;
            }
            let backlog = self.outbox.backlog();
            if self.input_closed && self.output_closed && backlog == 0 {
                if !self.hung_up {
                    linger(self.connection);
                }
                return Ok(());
            }
            let mut on_connection = PollFlags::empty();
            if !self.hung_up {
                on_connection |= PollFlags::IN;
            }
            if backlog > 0 {
                on_connection |= PollFlags::OUT;
            }
            let mut on_socket = PollFlags::empty();
            let room = self.outbox.has_room() && self.from_socket_window.left() > 0;
            if !self.output_closed && room {
                on_socket |= PollFlags::IN;
            }
            if !self.to_socket.is_empty() {
                on_socket |= PollFlags::OUT;
            }
            // Without interest one is left out: a hang-up would be reported again and again.
            let mut fds = vec![];
            let mut add = |fd, flags: PollFlags| {
                let wanted = !flags.is_empty();
                wanted.then(|| {
                    fds.push(PollFd::from_borrowed_fd(fd, flags));
                    fds.len() - 1
                })
            };
            let connection = add(self.connection.stream.as_fd(), on_connection);
            let socket = add(self.socket.as_fd(), on_socket);
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let in_or_end = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
            let come = |at: Option<usize>| at.map_or(PollFlags::empty(), |at| fds[at].revents());
            let (connection, socket) = (come(connection), come(socket));
            if !self.hung_up && connection.intersects(in_or_end) {
                self.receive()?;
            }
            if socket.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP) {
                self.feed();
            }
            if room && !self.output_closed && socket.intersects(in_or_end) {
                self.read_socket();
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        match self.connection.receive(&mut self.buffer[..]) {
            Ok(true) => self.take_frames(),
            Ok(false) => Ok(()),
            Err(_) if self.input_ended => {
                self.hung_up = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The host takes no more. That is an error unless it had said its last.
    fn host_is_gone(&mut self, error: io::Error) -> io::Result<()> {
        if !self.input_ended {
            return Err(error);
        }
        (self.hung_up, self.output_closed) = (true, true);
        self.outbox.clear();
        Ok(())
    }

    fn take_frames(&mut self) -> io::Result<()> {
        while let Some(frame) = self.connection.decoded()? {
            match frame {
                Frame::Data(Stream::Stdin, bytes) => {
                    let received = self.to_socket_window.received(bytes.len());
                    received.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                    self.to_socket.extend(bytes);
                }
                Frame::Credit(Stream::Stdout, count) => self.from_socket_window.granted(count),
                Frame::Control(json) => match Frame::parse(&json) {
                    Ok(ClientMessage::StdinEof) => self.input_ended = true,
                    Ok(ClientMessage::CloseOutput { .. }) => self.output_closed = true,
                    _ => {}
                },
                Frame::Data(..) | Frame::Credit(..) | Frame::Record(..) => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
        self.feed();
        Ok(())
    }

    /// Passes on to the socket what it takes now.
    fn feed(&mut self) {
        let mut done = 0;
        let waiting = self.to_socket.make_contiguous();
        while !self.input_closed && done < waiting.len() {
            match send(&self.socket, &waiting[done..], SendFlags::NOSIGNAL) {
                Ok(count) => done += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // Nobody reads it any more.
                Err(_) => self.input_closed = true,
            }
        }
        if self.input_closed {
            done = self.to_socket.len();
        }
        self.to_socket.drain(..done);
        if let Some(count) = self.to_socket_window.consumed(done) {
            encode_frame(self.outbox.frames(), &Frame::Credit(Stream::Stdin, count));
        }
        if self.input_ended && self.to_socket.is_empty() && !self.input_closed {
            self.input_closed = true;
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
    }

    fn read_socket(&mut self) {
        let most = self.from_socket_window.left().min(self.buffer.len());
        match rustix::io::read(&self.socket, &mut self.buffer[..most]) {
            Ok(count @ 1..) => {
                self.from_socket_window.sent(count);
                encode_data(self.outbox.frames(), Stream::Stdout, &self.buffer[..count]);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                self.output_closed = true;
                encode_control(self.outbox.frames(), &AgentMessage::StdoutEof);
            }
        }
    }
}
