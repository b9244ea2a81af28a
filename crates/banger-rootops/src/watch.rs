//! Hearing of every change to the firewall, anybody's: the kernel's multicast group for nftables.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// `NFNLGRP_NFTABLES`, `include/uapi/linux/netfilter/nfnetlink.h`.
const NFTABLES_GROUP: u32 = 7;
/// A message that says that a table is gone: `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_DELTABLE`
/// (`include/uapi/linux/netfilter/nfnetlink.h`, `nf_tables.h`).
const TABLE_GONE: u16 = (10 << 8) | 2;
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

    /// Returns when something was changed and nothing has been for a moment; at once when a table is gone: it may be ours, and
    /// guests are without it meanwhile.
    ///
    /// # Errors
    /// The socket's.
    pub fn wait(&self) -> io::Result<()> {
        self.is_readable(None)?;
        let start = Instant::now();
        loop {
            if self.drain()? {
                return Ok(());
            }
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

    /// Whether a table is gone. What else was changed does not matter, nor that some of it was lost (`ENOBUFS`).
    fn drain(&self) -> io::Result<bool> {
        let lost = rustix::io::Errno::NOBUFS.raw_os_error();
        let mut event = Vec::with_capacity(64 << 10);
        let mut gone = false;
        loop {
            event.clear();
            match self.0.recv(&mut event, 0) {
                Ok(_) => gone |= messages(&event).any(|kind| kind == TABLE_GONE),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(gone),
                Err(error) if error.raw_os_error() == Some(lost) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The types of a datagram's messages, until one does not fit in it.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(rest).ok()?;
        let (length, kind) = (message.length(), message.message_type());
        let length = usize::try_from(length).ok()?;
        // Each begins at a multiple of four bytes (`NLMSG_ALIGN`); the last needs no filling.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message's header (`struct nlmsghdr`, netlink(7)).
    const HEADER: usize = 16;

    fn message(kind: u16, payload: usize) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize((HEADER + payload).next_multiple_of(4), 0xff);
        bytes
    }

    #[test]
    fn a_datagram_has_several_messages_and_its_last_may_be_cut() {
        let (new_table, new_rule) = (10 << 8, (10 << 8) | 6);
        let all = [
            message(new_rule, 5),
            message(TABLE_GONE, 20),
            message(new_table, 0),
        ]
        .concat();
        let kinds: Vec<_> = messages(&all).collect();
        assert_eq!(kinds, [new_rule, TABLE_GONE, new_table]);
        assert_eq!(messages(&all[..all.len() - 1]).count(), 2);
        for bytes in [&[][..], &[0; 40], &[0xff; 40], &[16, 0, 0]] {
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(bytes: Vec<u8>) {
            proptest::prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER + 1);
        }
    }
}
