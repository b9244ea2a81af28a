//! All streams of one VM: what a packet from the guest does, and which packet goes to it next.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;

use crate::connection::{Connection, Stage};
use crate::host::{self, Greeting};
use crate::packet::{HOST_CID, Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

/// The most streams of one VM; more are refused, from either side.
const MAX_CONNECTIONS: usize = 1024;
/// Replies that wait for room in the guest's queue; a guest that lets them pile up loses them.
const MAX_REPLIES: usize = 4096;
/// First of the ports that host programs get: above what people pick.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Names a stream for the event loop.
pub(crate) type Token = u64;

/// The streams.
#[derive(Debug)]
pub(crate) struct Mux {
    guest_cid: u64,
    connections: HashMap<Token, Connection>,
    /// Host port and guest port to stream.
    by_ports: HashMap<(u32, u32), Token>,
    /// Streams that may have data for the guest, in turn.
    turns: VecDeque<Token>,
    /// Packets without data, for the guest.
    replies: VecDeque<Header>,
    next_token: Token,
    next_host_port: u32,
    /// Streams that have come into being and that the event loop must watch.
    pub(crate) new_tokens: Vec<Token>,
}

impl Mux {
    pub(crate) fn new(guest_cid: u64, first_token: Token) -> Self {
        Self {
            guest_cid,
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            turns: VecDeque::new(),
            replies: VecDeque::new(),
            next_token: first_token,
            next_host_port: FIRST_HOST_PORT,
            new_tokens: Vec::new(),
        }
    }

    pub(crate) fn stream(&self, token: Token) -> Option<&UnixStream> {
        self.connections
            .get(&token)
            .map(|connection| &connection.stream)
    }

    /// A host program has connected.
    pub(crate) fn add_host(&mut self, stream: UnixStream) {
        if self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let host_port = self.next_host_port;
        self.next_host_port = host_port.checked_add(1).unwrap_or(FIRST_HOST_PORT);
        self.insert(Connection::new(stream, Stage::Greeting, host_port, 0));
    }

    fn insert(&mut self, connection: Connection) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.connections.insert(token, connection);
        self.new_tokens.push(token);
        token
    }

    fn remove(&mut self, token: Token) {
        if let Some(connection) = self.connections.remove(&token) {
            self.by_ports
                .remove(&(connection.host_port, connection.guest_port));
        }
    }

    /// The event loop saw something on a stream's socket.
    pub(crate) fn on_host_event(
        &mut self,
        token: Token,
        readable: bool,
        writable: bool,
        hung_up: bool,
    ) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        connection.readable |= readable;
        connection.writable |= writable;
        connection.hung_up |= hung_up;
        match connection.stage {
            Stage::Greeting => self.on_greeting(token),
            Stage::Parked | Stage::Requested if host::is_gone(&connection.stream) => {
                self.remove(token)
            }
            Stage::Parked | Stage::Requested => {}
            Stage::Established => {
                connection.flush();
                self.after_flush(token);
                self.turns.push_back(token);
            }
        }
    }

    fn on_greeting(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        match host::read_greeting(&mut connection.stream, &mut connection.greeting) {
            Greeting::Unfinished => connection.readable = false,
            Greeting::Wrong => self.remove(token),
            Greeting::Connect(port) => {
                connection.guest_port = port;
                connection.stage = Stage::Parked;
                let ports = (connection.host_port, port);
                self.by_ports.insert(ports, token);
                self.request(token);
            }
        }
    }

    /// Whether any stream waits for somebody to listen.
    pub(crate) fn has_parked(&self) -> bool {
        self.connections
            .values()
            .any(|connection| connection.stage == Stage::Parked)
    }

    /// Asks the guest again for every parked stream.
    pub(crate) fn retry_parked(&mut self) {
        let parked = |connection: &Connection| connection.stage == Stage::Parked;
        let tokens: Vec<Token> = self
            .connections
            .iter()
            .filter(|(_, c)| parked(c))
            .map(|(token, _)| *token)
            .collect();
        for token in tokens {
            self.request(token);
        }
    }

    fn request(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        connection.stage = Stage::Requested;
        let header = header_for(connection, self.guest_cid, Op::Request);
        self.replies.push_back(header);
    }

    /// A packet from the guest. Everything in it is hostile.
    pub(crate) fn on_guest_packet(&mut self, header: &Header, data: &[u8]) {
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        let token = self
            .by_ports
            .get(&(header.dst_port, header.src_port))
            .copied();
        let (Some(op), TYPE_STREAM) = (header.op, header.kind) else {
            return self.refuse(header);
        };
        let Some(token) = token else {
            return match op {
                Op::Request => self.on_guest_request(header),
                Op::Reset => {}
                _ => self.refuse(header),
            };
        };
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.note_credit(header.buf_alloc, header.fwd_cnt);
        }
        match op {
            Op::Request => self.reset(token),
            Op::Response => self.on_response(token),
            Op::Reset => self.on_reset(token),
            Op::Shutdown => self.on_shutdown(token, header.flags),
            Op::Data => self.on_data(token, data),
            Op::CreditUpdate => self.turns.push_back(token),
            Op::CreditRequest => self.reply(token, Op::CreditUpdate),
        }
    }

    fn on_response(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        if connection.stage != Stage::Requested {
            return self.reset(token);
        }
        connection.stage = Stage::Established;
        connection.readable = true;
        let line = format!("OK {}\n", connection.host_port);
        if host::write_greeting(&mut connection.stream, line.as_bytes()) {
            self.turns.push_back(token);
        } else {
            self.reset(token);
        }
    }

    fn on_reset(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        if connection.stage == Stage::Requested {
            // Nobody listens on that port yet.
            connection.stage = Stage::Parked;
            return;
        }
        connection.flush();
        self.remove(token);
    }

    fn on_shutdown(&mut self, token: Token, flags: u32) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        connection.guest_shutdown |= flags & (SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
        connection.flush();
        self.after_flush(token);
    }

    fn on_data(&mut self, token: Token, data: &[u8]) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let sends = connection.guest_shutdown & SHUTDOWN_SEND == 0;
        if connection.stage != Stage::Established || !sends || !connection.take_from_guest(data) {
            return self.reset(token);
        }
        self.after_flush(token);
    }

    /// What follows when the host program has taken data, or cannot take any more.
    fn after_flush(&mut self, token: Token) {
        let Some(connection) = self.connections.get(&token) else {
            return;
        };
        let guest_is_done = connection.guest_shutdown == SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
        let both_are_done = connection.guest_shutdown & SHUTDOWN_SEND != 0 && connection.host_eof;
        if connection.host_broken || (connection.is_flushed() && (guest_is_done || both_are_done)) {
            self.reset(token);
        } else if connection.wants_credit_update() {
            self.reply(token, Op::CreditUpdate);
        }
    }

    /// Ends a stream on both sides.
    fn reset(&mut self, token: Token) {
        self.reply(token, Op::Reset);
        self.remove(token);
    }

    fn reply(&mut self, token: Token, op: Op) {
        if let Some(connection) = self.connections.get_mut(&token) {
            let header = header_for(connection, self.guest_cid, op);
            self.push_reply(header);
        }
    }

    fn push_reply(&mut self, header: Header) {
        if self.replies.len() < MAX_REPLIES {
            self.replies.push_back(header);
        }
    }

    /// A packet that fits no stream is answered with a reset (section 5.10.6.4).
    fn refuse(&mut self, to: &Header) {
        if to.op == Some(Op::Reset) {
            return;
        }
        self.push_reply(Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: to.dst_port,
            dst_port: to.src_port,
            len: 0,
            kind: TYPE_STREAM,
            op: Some(Op::Reset),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        });
    }

    fn on_guest_request(&mut self, header: &Header) {
        if self.connections.len() >= MAX_CONNECTIONS {
            return self.refuse(header);
        }
        let Some(stream) = host::connect_for_guest(header.dst_port) else {
            return self.refuse(header);
        };
        let mut connection =
            Connection::new(stream, Stage::Established, header.dst_port, header.src_port);
        connection.note_credit(header.buf_alloc, header.fwd_cnt);
        let token = self.insert(connection);
        self.by_ports
            .insert((header.dst_port, header.src_port), token);
        self.reply(token, Op::Response);
    }

    /// Whether the guest should be given a packet. May say yes and then have none.
    pub(crate) fn has_packets(&self) -> bool {
        !self.replies.is_empty() || !self.turns.is_empty()
    }

    /// The next packet for the guest; its data goes into `data`, at most as much as fits there.
    pub(crate) fn next_packet(&mut self, data: &mut [u8]) -> Option<Header> {
        if let Some(header) = self.replies.pop_front() {
            return Some(header);
        }
        while let Some(token) = self.turns.pop_front() {
            let Some(connection) = self.connections.get_mut(&token) else {
                continue;
            };
            let count = if connection.has_data_for_guest() {
                connection.read_for_guest(data)
            } else {
                0
            };
            if count > 0 {
                if !self.turns.contains(&token) {
                    self.turns.push_back(token);
                }
                let mut header = header_for(connection, self.guest_cid, Op::Data);
                header.len = u32::try_from(count).unwrap_or(0);
                return Some(header);
            }
            if let Some(header) = self.tell_end(token) {
                return Some(header);
            }
        }
        None
    }

    /// Tells the guest that the host program will send no more, once.
    fn tell_end(&mut self, token: Token) -> Option<Header> {
        let connection = self.connections.get_mut(&token)?;
        if !connection.host_eof {
            return None;
        }
        let gone = if connection.hung_up {
            SHUTDOWN_RECEIVE
        } else {
            0
        };
        let flags = SHUTDOWN_SEND | gone;
        if connection.told_shutdown == flags {
            return None;
        }
        connection.told_shutdown = flags;
        let mut header = header_for(connection, self.guest_cid, Op::Shutdown);
        header.flags = flags;
        self.after_flush(token);
        Some(header)
    }
}

/// A packet without data for this stream. The guest learns our counters from every packet.
fn header_for(connection: &mut Connection, guest_cid: u64, op: Op) -> Header {
    let (buf_alloc, fwd_cnt) = connection.tell_credit();
    Header {
        src_cid: HOST_CID,
        dst_cid: guest_cid,
        src_port: connection.host_port,
        dst_port: connection.guest_port,
        len: 0,
        kind: TYPE_STREAM,
        op: Some(op),
        flags: 0,
        buf_alloc,
        fwd_cnt,
    }
}

#[cfg(test)]
mod tests;
