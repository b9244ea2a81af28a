//! Pipes, sockets and terminals for the runtime, by readiness: nothing here blocks a thread, so nothing is left blocked when the
//! server ends.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Hands a descriptor to the runtime.
///
/// # Errors
/// It is a file or another thing that is never waited for.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = fcntl_getfl(&fd)?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    #[expect(
        deprecated,
        reason = "unsound for types that lend the runtime another's descriptor: this one is owned. `register`, which replaces it, is unsafe"
    )]
    AsyncFd::new(fd)
}

/// Writes all of it.
///
/// # Errors
/// Nobody reads it.
pub(crate) async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut guard = fd.writable().await?;
        let written = guard.try_io(|fd| rustix::io::write(fd, bytes).map_err(io::Error::from));
        match written {
            Ok(Ok(count)) => bytes = &bytes[count..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

/// Reads what is there; 0 at the end. A terminal whose other end is closed has ended, too.
///
/// # Errors
/// It cannot be read.
pub(crate) async fn read(fd: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut guard = fd.readable().await?;
        let read = guard.try_io(|fd| rustix::io::read(fd, &mut *buffer).map_err(io::Error::from));
        match read {
            Ok(Ok(count)) => return Ok(count),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                return Ok(0);
            }
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}
