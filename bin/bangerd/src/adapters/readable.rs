//! Waiting for a descriptor to become readable.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that can be waited for.
///
/// # Errors
/// The runtime cannot watch it.
#[expect(
    deprecated,
    reason = "an OwnedFd stays open as long as the AsyncFd, which is all that safety asks for"
)]
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
