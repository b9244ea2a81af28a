//! The sockets on which guests ask for names: port 53 needs root, answering does not.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

const PORT: u16 = 53;

/// A UDP and a listening TCP socket on the bridge's address.
pub(crate) fn open(address: Ipv4Addr) -> io::Result<Vec<OwnedFd>> {
    let udp = UdpSocket::bind((address, PORT))?;
    let tcp = TcpListener::bind((address, PORT))?;
    Ok(vec![OwnedFd::from(udp), OwnedFd::from(tcp)])
}
