//! One stream between a host program and the guest, with its credit both ways (virtio 1.2, section
//! 5.10.6.3): no side sends more than the other has said that it can hold.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// What we say that we can hold of the guest's data for one stream.
pub(crate) const BUFFER: u32 = 1 << 20;

/// How far a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A host program has connected and not yet said where to.
    Greeting,
    /// It waits for somebody to listen on the guest's port.
    Parked,
    /// The guest has been asked.
    Requested,
    /// Data may flow.
    Established,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    pub(crate) stage: Stage,
    pub(crate) host_port: u32,
    pub(crate) guest_port: u32,
    /// The first line, as far as it has come.
    pub(crate) greeting: Vec<u8>,
    /// The socket may have something to read; its end counts.
    pub(crate) readable: bool,
    /// The socket may take something.
    pub(crate) writable: bool,
    /// The host program has closed its sending side.
    pub(crate) host_eof: bool,
    /// The host program is gone altogether.
    pub(crate) hung_up: bool,
    /// What the guest has said about its own sides.
    pub(crate) guest_shutdown: u32,
    /// What we have said about the host's sides.
    pub(crate) told_shutdown: u32,
    /// The guest's data that the host program has not taken yet.
    to_host: VecDeque<u8>,
    /// Bytes that the host program has taken, ever.
    fwd_cnt: u32,
    /// The same as the guest last heard it.
    told_fwd_cnt: u32,
    /// Bytes sent to the guest, ever.
    tx_cnt: u32,
    guest_buf_alloc: u32,
    guest_fwd_cnt: u32,
    /// The host's socket takes nothing any more.
    pub(crate) host_broken: bool,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, stage: Stage, host_port: u32, guest_port: u32) -> Self {
        Self {
            stream,
            stage,
            host_port,
            guest_port,
            greeting: Vec::new(),
            readable: false,
            writable: true,
            host_eof: false,
            hung_up: false,
            guest_shutdown: 0,
            told_shutdown: 0,
            to_host: VecDeque::new(),
            fwd_cnt: 0,
            told_fwd_cnt: 0,
            tx_cnt: 0,
            guest_buf_alloc: 0,
            guest_fwd_cnt: 0,
            host_broken: false,
        }
    }

    /// What the guest said about its buffer, with whatever packet.
    pub(crate) fn note_credit(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.guest_buf_alloc = buf_alloc;
        self.guest_fwd_cnt = fwd_cnt;
    }

    /// How many bytes the guest can hold now. Counters wrap.
    pub(crate) fn guest_room(&self) -> u32 {
        let in_flight = self.tx_cnt.wrapping_sub(self.guest_fwd_cnt);
        self.guest_buf_alloc.saturating_sub(in_flight)
    }

    /// Data from the guest; false when it is more than we said we could hold.
    pub(crate) fn take_from_guest(&mut self, data: &[u8]) -> bool {
        if self.to_host.len() + data.len() > BUFFER as usize {
            return false;
        }
        // Straight through where nothing waits: the buffer is for slow readers.
        let mut rest = data;
        if self.to_host.is_empty() && self.writable && !self.host_broken {
            let count = self.write_some(rest);
            rest = &rest[count..];
        }
        if self.host_broken {
            self.fwd_cnt = self
                .fwd_cnt
                .wrapping_add(u32::try_from(rest.len()).unwrap_or(0));
        } else {
            self.to_host.extend(rest);
        }
        true
    }

    fn write_some(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            match self.stream.write(&data[done..]) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Err(_) => {
                    self.host_broken = true;
                    break;
                }
            }
        }
        self.fwd_cnt = self.fwd_cnt.wrapping_add(u32::try_from(done).unwrap_or(0));
        done
    }

    /// Gives the host program what waits for it, as far as it takes it.
    pub(crate) fn flush(&mut self) {
        while self.writable && !self.host_broken && !self.to_host.is_empty() {
            let chunk: Vec<u8> = self.to_host.as_slices().0.to_vec();
            let count = self.write_some(&chunk);
            self.to_host.drain(..count);
        }
        if self.host_broken {
            self.to_host.clear();
        }
        let ended = self.guest_shutdown & crate::packet::SHUTDOWN_SEND != 0;
        if ended && self.to_host.is_empty() {
            // An already closed socket is closed enough.
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
        }
    }

    /// Whether all that the guest sent has reached the host program.
    pub(crate) fn is_flushed(&self) -> bool {
        self.to_host.is_empty()
    }

    /// Whether the guest should hear that there is room again.
    pub(crate) fn wants_credit_update(&self) -> bool {
        self.fwd_cnt.wrapping_sub(self.told_fwd_cnt) >= BUFFER / 4
    }

    /// The counters for a packet that goes to the guest; it then knows them.
    pub(crate) fn tell_credit(&mut self) -> (u32, u32) {
        self.told_fwd_cnt = self.fwd_cnt;
        (BUFFER, self.fwd_cnt)
    }

    /// Whether there may be something for the guest to read, and it has room.
    pub(crate) fn has_data_for_guest(&self) -> bool {
        let takes = self.guest_shutdown & crate::packet::SHUTDOWN_RECEIVE == 0;
        self.stage == Stage::Established
            && self.readable
            && !self.host_eof
            && takes
            && self.guest_room() > 0
    }

    /// Reads for the guest, at most what it can hold. 0: nothing now, or the end (see `host_eof`).
    pub(crate) fn read_for_guest(&mut self, into: &mut [u8]) -> usize {
        let room = usize::try_from(self.guest_room())
            .unwrap_or(usize::MAX)
            .min(into.len());
        loop {
            match self.stream.read(&mut into[..room]) {
                Ok(0) => self.host_eof = true,
                Ok(count) => {
                    self.tx_cnt = self.tx_cnt.wrapping_add(u32::try_from(count).unwrap_or(0));
                    return count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(_) => {
                    self.host_eof = true;
                    self.hung_up = true;
                }
            }
            return 0;
        }
    }
}
