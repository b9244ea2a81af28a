//! The end of a connection whose last message must arrive.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::connection::Connection;

/// How long a client has to take the last message and hang up.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// Reads and drops what the client still sends until it hangs up: closing a vsock stream with unread
/// data resets it, and the reset can overtake the last message.
pub(super) fn linger(connection: &mut Connection) {
    let deadline = Instant::now() + LINGER;
    let mut buffer = [0; 64 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else {
            return;
        };
        let mut fds = [PollFd::new(&connection.stream, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        match rustix::io::read(&connection.stream, &mut buffer) {
            Ok(0) => return,
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
