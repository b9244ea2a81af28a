//! Real packets between namespaces: guests (veth pairs in place of taps), the host, and a machine
//! beyond it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use banger_core::{TapName, VmId};
use banger_root_proto::{Client, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto,
    socket_with,
};

use super::{Netns, World, inside, ip, ok};

pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
pub(crate) const BEYOND: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// How long nothing must come before it is said that nothing comes.
pub(crate) const SILENCE: Duration = Duration::from_millis(250);
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Puts a guest behind the VM's tap: a veth takes the tap's name and place.
pub(crate) fn guest(
    world: &World,
    client: &Client,
    vm: &VmId,
    address: Ipv4Addr,
    nat: bool,
) -> Netns {
    ok(
        client,
        &Request::EnsureTap {
            vm: vm.clone(),
            address,
            nat,
        },
    );
    let tap = TapName::of(vm);
    let (name, host) = (tap.as_str(), world.network());
    let namespace = Netns::new();
    ip(host, &format!("link del {name}"));
    ip(
        host,
        &format!(
            "link add {name} type veth peer name eth0 netns {}",
            namespace.pid()
        ),
    );
    ip(
        host,
        &format!("link set {name} alias banger:{}", world.owner),
    );
    ip(host, &format!("link set {name} master banger0 up"));
    let pid = namespace.pid();
    ip(pid, &format!("link set eth0 address {} up", vm.mac()));
    ip(pid, &format!("addr add {address}/24 dev eth0"));
    ip(pid, &format!("route add default via {HOST}"));
    namespace
}

/// A machine that the host reaches, and that knows nothing of guests.
pub(crate) fn beyond(world: &World) -> Netns {
    let namespace = Netns::new();
    let (host, pid) = (world.network(), namespace.pid());
    ip(
        host,
        &format!("link add up0 type veth peer name eth0 netns {pid}"),
    );
    ip(host, "addr add 10.99.0.1/24 dev up0");
    ip(host, "link set up0 up");
    ip(pid, &format!("addr add {BEYOND}/24 dev eth0"));
    ip(pid, "link set eth0 up");
    // It would answer a guest that is not masqueraded.
    ip(pid, "route add default via 10.99.0.1");
    namespace
}

/// The same as [`datagram`], again and again until one came: a machine that has just come up loses some.
pub(crate) fn arrives(
    from: u32,
    source: Ipv4Addr,
    to: u32,
    address: Ipv4Addr,
    port: u16,
) -> Option<Ipv4Addr> {
    let start = Instant::now();
    loop {
        let seen = datagram(from, source, to, address, port);
        if seen.is_some() || start.elapsed() > PATIENCE {
            return seen;
        }
    }
}

/// Sends a datagram from one namespace to another; the source that the receiver saw, if it came.
pub(crate) fn datagram(
    from: u32,
    source: Ipv4Addr,
    to: u32,
    address: Ipv4Addr,
    port: u16,
) -> Option<Ipv4Addr> {
    let receiver = inside(to, || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
    });
    inside(from, || {
        let sender = UdpSocket::bind((source, 0)).unwrap();
        match sender.send_to(b"x", (address, port)) {
            Err(error) if error.kind() != ErrorKind::PermissionDenied => {
                assert!(error.raw_os_error().is_some(), "{error}");
            }
            _ => {}
        }
    });
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    match receiver.recv_from(&mut [0; 8]) {
        Ok((_, SocketAddr::V4(peer))) => Some(*peer.ip()),
        _ => None,
    }
}

/// Whether a connection comes about.
pub(crate) fn connects(
    from: u32,
    to: u32,
    address: Ipv4Addr,
    port: u16,
    patience: Duration,
) -> bool {
    let listener = inside(to, || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
    });
    let target = SocketAddrV4::new(address, port).into();
    let connected = inside(from, || {
        TcpStream::connect_timeout(&target, patience).is_ok()
    });
    drop(listener);
    connected
}

/// Whether a ping is answered (RFC 792: type 8, code 0, checksum over the eight bytes).
pub(crate) fn pings(from: u32, address: Ipv4Addr, patience: Duration) -> bool {
    inside(from, || {
        let kind = SocketType::RAW;
        let flags = SocketFlags::CLOEXEC;
        let icmp = Some(ipproto::ICMP);
        let socket = socket_with(AddressFamily::INET, kind, flags, icmp).unwrap();
        let echo = [8_u8, 0, 0xf7, 0xff - 1, 0, 1, 0, 0];
        let to = SocketAddrV4::new(address, 0);
        if sendto(&socket, &echo, SendFlags::empty(), &to).is_err() {
            return false;
        }
        let timeout = Timespec::try_from(patience).unwrap();
        loop {
            let ready = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)).unwrap();
            if ready == 0 {
                return false;
            }
            let mut packet = [0_u8; 128];
            let (length, _) = recv(&socket, &mut packet[..], RecvFlags::empty()).unwrap();
            // After the IP header (20 bytes): an echo reply, from the one that was asked.
            let source = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
            if length >= 28 && packet[20] == 0 && source == address {
                return true;
            }
        }
    })
}
