//! Hearing of every change to the firewall, anybody's: the kernel's multicast group for nftables.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// `NFNLGRP_NFTABLES`, `include/uapi/linux/netfilter/nfnetlink.h`.
const NFTABLES_GROUP: u32 = 7;
/// Whoever loads a firewall does it in many steps: this long without one is the end of it.
const QUIET: Duration = Duration::from_millis(150);
/// And this long is waited for the quiet at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// A subscription, from the moment it is made.
#[derive(Debug)]
pub struct FirewallWatch(Socket);

impl FirewallWatch {
    /// Subscribes, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel has no nftables.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(NFTABLES_GROUP)?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Returns when something was changed and nothing has been for a moment.
    ///
    /// # Errors
    /// The socket's.
    pub fn wait(&self) -> io::Result<()> {
        self.is_readable(None)?;
        let start = Instant::now();
        loop {
            self.drain()?;
            if start.elapsed() > PATIENCE || !self.is_readable(Some(QUIET))? {
                return Ok(());
            }
        }
    }

    fn is_readable(&self, patience: Option<Duration>) -> io::Result<bool> {
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let fd = self.0.as_fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(true),
            ready => Ok(ready? > 0),
        }
    }

    /// What was changed does not matter, nor that some of it was lost (`ENOBUFS`).
    fn drain(&self) -> io::Result<()> {
        let lost = rustix::io::Errno::NOBUFS.raw_os_error();
        let mut event = Vec::with_capacity(64 << 10);
        loop {
            event.clear();
            match self.0.recv(&mut event, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(lost) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
