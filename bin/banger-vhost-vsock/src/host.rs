//! The host's side of a stream: the first line each way, and the sockets that guests reach.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};

/// The longest first line: `CONNECT 4294967295` and its end.
const MAX_GREETING: usize = 32;

/// What a host program's first line says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Its end has not come.
    Unfinished,
    /// It is none; the program is hung up on.
    Wrong,
    /// The guest's port.
    Connect(u32),
}

/// Reads the first line and not one byte more: what follows is for the guest.
pub(crate) fn read_greeting(stream: &mut UnixStream, line: &mut Vec<u8>) -> Greeting {
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Greeting::Wrong,
            Ok(_) if byte[0] == b'\n' => return parse(line),
            Ok(_) if line.len() == MAX_GREETING => return Greeting::Wrong,
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Greeting::Unfinished,
            Err(_) => return Greeting::Wrong,
        }
    }
}

fn parse(line: &[u8]) -> Greeting {
    let port = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_prefix("CONNECT "));
    port.and_then(|port| port.parse().ok())
        .map_or(Greeting::Wrong, Greeting::Connect)
}

/// Writes the answer to the first line; a fresh socket always has room for it.
pub(crate) fn write_greeting(stream: &mut UnixStream, line: &[u8]) -> bool {
    stream.write_all(line).is_ok()
}

/// Whether the program has hung up: closing is the only way to withdraw a request.
pub(crate) fn is_gone(stream: &UnixStream) -> bool {
    let mut byte = [0];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(recv(stream, &mut byte, flags), Ok((0, _)))
        || matches!(
            recv(stream, &mut byte, flags),
            Err(rustix::io::Errno::CONNRESET)
        )
}

/// Connects to the host socket for a guest's port; None when nobody listens there.
pub(crate) fn connect_for_guest(port: u32) -> Option<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(
        &socket,
        &SocketAddrUnix::new(format!("v_{port}").as_str()).ok()?,
    )
    .ok()?;
    Some(UnixStream::from(socket))
}
