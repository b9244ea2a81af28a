//! Descriptors that were passed by number.
#![expect(
    unsafe_code,
    reason = "only the one who started us knows that a descriptor is ours"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

/// Takes over a listening socket that this process was started with.
///
/// # Errors
/// There is no such descriptor, or it is no Unix socket.
pub fn inherited_listener(fd: RawFd) -> io::Result<UnixListener> {
    // SAFETY: called once for each number, at the start of main, before anything else is opened.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    let listener = UnixListener::from(fd);
    listener.local_addr()?;
    Ok(listener)
}
