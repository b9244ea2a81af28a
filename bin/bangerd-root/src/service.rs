//! Being a systemd service: the socket that was opened for us, and saying that we are ready.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
};

/// Whether a socket was passed on (sd_listen_fds(3)): then it is descriptor 3, and the only one.
pub(crate) fn has_socket() -> bool {
    let of = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    of("LISTEN_PID") == Some(std::process::id()) && of("LISTEN_FDS") == Some(1_u32)
}

/// Checks that what was passed on is what we would have opened.
pub(crate) fn check_socket(socket: &OwnedFd) -> io::Result<()> {
    let kind = rustix::net::sockopt::socket_type(socket)?;
    let listens = rustix::net::sockopt::socket_acceptconn(socket)?;
    if kind == SocketType::SEQPACKET && listens {
        return Ok(());
    }
    Err(io::Error::other(
        "the socket that the service manager passed on is no listening SOCK_SEQPACKET",
    ))
}

/// Tells the service manager that requests are answered (sd_notify(3)); without one, nothing.
pub(crate) fn say_ready() -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddrUnix::new_abstract_name(rest)?,
        path => SocketAddrUnix::new(path)?,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    sendto(&socket, b"READY=1", SendFlags::NOSIGNAL, &address)?;
    Ok(())
}
