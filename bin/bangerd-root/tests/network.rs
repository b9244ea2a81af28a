//! Real packets between namespaces: guests (veth pairs in place of taps), the host, and a machine
//! beyond it. Default-deny, NAT, pinned sources.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

mod common;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use banger_core::{TapName, VmId};
use banger_root_proto::{Client, RefusalCode, Reply, Request};
use common::{Netns, World, call, code, inside, ip, ok, skipped, vm};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto,
    socket_with,
};

const HOST: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const BEYOND: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// How long nothing must come before it is said that nothing comes.
const SILENCE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(5);

/// Puts a guest behind the VM's tap: a veth takes the tap's name and place.
fn guest(world: &World, client: &Client, vm: &VmId, address: Ipv4Addr, nat: bool) -> Netns {
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
fn beyond(world: &World) -> Netns {
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

/// Sends a datagram from one namespace to another; the source that the receiver saw, if it came.
fn datagram(
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
fn connects(from: u32, to: u32, address: Ipv4Addr, port: u16, patience: Duration) -> bool {
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
fn pings(from: u32, address: Ipv4Addr, patience: Duration) -> bool {
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

#[test]
fn guests_reach_each_other_the_hosts_names_and_with_nat_the_world() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    ok(&client, &Request::EnsureNetwork {});
    let world_beyond = beyond(&world);
    let (host, far) = (world.network(), world_beyond.pid());
    let [one_ip, two_ip] = [2, 3].map(|last| Ipv4Addr::new(172, 16, 0, last));
    let one = guest(&world, &client, &vm(1), one_ip, false);
    let two = guest(&world, &client, &vm(2), two_ip, true);
    let (one, two) = (one.pid(), two.pid());

    // The bridge has carrier before any guest.
    assert!(ip(host, "link show banger0").contains("LOWER_UP"));
    // Guests reach each other and are reached from the host.
    assert_eq!(datagram(one, one_ip, two, two_ip, 7000), Some(one_ip));
    assert!(connects(one, two, two_ip, 7001, PATIENCE));
    assert!(connects(host, one, one_ip, 7002, PATIENCE));
    // The host answers names and pings, and nothing else; under its other addresses nothing.
    assert!(pings(one, HOST, PATIENCE));
    assert_eq!(datagram(one, one_ip, host, HOST, 53), Some(one_ip));
    assert!(connects(one, host, HOST, 53, PATIENCE));
    assert!(!connects(one, host, HOST, 22, SILENCE));
    assert_eq!(datagram(one, one_ip, host, HOST, 5353), None);
    let other = Ipv4Addr::new(10, 99, 0, 1);
    assert!(!pings(two, other, SILENCE));
    assert!(!connects(two, host, other, 53, SILENCE));
    // Without NAT nothing leaves; with it, it leaves under the host's address.
    assert_eq!(datagram(one, one_ip, far, BEYOND, 7003), None);
    assert!(!connects(one, far, BEYOND, 7004, SILENCE));
    assert_eq!(datagram(two, two_ip, far, BEYOND, 7005), Some(other));
    assert!(connects(two, far, BEYOND, 7006, PATIENCE));
    assert!(pings(two, BEYOND, PATIENCE));
    // Nobody beyond reaches a guest, with NAT or without.
    assert!(!connects(far, one, one_ip, 7007, SILENCE));
    assert!(!connects(far, two, two_ip, 7008, SILENCE));

    // Live.
    ok(
        &client,
        &Request::SetNat {
            vm: vm(1),
            nat: true,
        },
    );
    ok(
        &client,
        &Request::SetNat {
            vm: vm(2),
            nat: false,
        },
    );
    assert!(connects(one, far, BEYOND, 7009, PATIENCE));
    assert!(!connects(two, far, BEYOND, 7010, SILENCE));
    assert!(connects(one, two, two_ip, 7011, PATIENCE));
}

#[test]
fn a_guest_speaks_only_for_itself() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    ok(&client, &Request::EnsureNetwork {});
    let [one_ip, two_ip, forged] = [2, 3, 9].map(|last| Ipv4Addr::new(172, 16, 0, last));
    let one = guest(&world, &client, &vm(1), one_ip, true);
    let two = guest(&world, &client, &vm(2), two_ip, false);
    let (host, one, two) = (world.network(), one.pid(), two.pid());
    assert_eq!(datagram(one, one_ip, two, two_ip, 7000), Some(one_ip));

    // All know each other's MAC: what is dropped now is dropped for its address.
    assert!(pings(one, HOST, PATIENCE) && pings(two, HOST, PATIENCE));

    // Another address, that of nobody or of a neighbour's.
    ip(one, &format!("addr add {forged}/32 dev eth0"));
    assert_eq!(datagram(one, forged, two, two_ip, 7001), None);
    assert_eq!(datagram(one, forged, host, HOST, 53), None);
    ip(two, &format!("addr add {one_ip}/32 dev eth0"));
    assert_eq!(datagram(two, one_ip, host, HOST, 53), None);
    assert_eq!(datagram(two, two_ip, host, HOST, 53), Some(two_ip));
    ip(two, &format!("addr del {one_ip}/32 dev eth0"));
    // Nor does it say of another address that it is its own.
    ip(two, "neigh flush dev eth0");
    ip(two, &format!("addr add {forged}/32 dev eth0"));
    assert_eq!(datagram(host, HOST, two, forged, 7003), None);
    // IPv6 does not pass at all.
    let neighbours = ip(host, "-6 neigh show dev banger0");
    assert_eq!(neighbours.trim(), "");
    // Another MAC.
    ip(one, "link set eth0 address 06:11:22:33:44:55");
    ip(one, "neigh flush dev eth0");
    assert_eq!(datagram(one, one_ip, two, two_ip, 7002), None);
    assert!(!pings(one, HOST, SILENCE));
    ip(one, &format!("link set eth0 address {}", vm(1).mac()));
    ip(one, "neigh flush dev eth0");
    assert!(pings(one, HOST, PATIENCE));
}

#[test]
fn what_others_changed_is_put_right() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    ok(&client, &Request::EnsureNetwork {});
    let address = Ipv4Addr::new(172, 16, 0, 2);
    ok(
        &client,
        &Request::EnsureTap {
            vm: vm(1),
            address,
            nat: false,
        },
    );
    let nft = |args: &[&str]| {
        let mut command = std::process::Command::new("nsenter");
        command
            .args(["-t", &world.network().to_string(), "-n", "nft"])
            .args(args);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let stands = || match ok(&client, &Request::List {}) {
        Reply::Owned(facts) => facts.network,
        other => panic!("{other:?}"),
    };
    assert!(stands());
    let before = nft(&["list", "ruleset"]);
    assert!(before.contains("bgr01"), "{before}");
    nft(&["flush", "ruleset"]);
    assert!(!stands());
    ok(&client, &Request::EnsureNetwork {});
    assert!(stands());
    assert_eq!(nft(&["list", "ruleset"]), before);
    // Somebody else's table stays, and costs us nothing but one more look.
    nft(&["add", "table", "inet", "others"]);
    ok(&client, &Request::EnsureNetwork {});
    assert!(nft(&["list", "tables"]).contains("others"));
    ip(world.network(), "link set banger0 down");
    assert!(!stands());
    ok(&client, &Request::EnsureNetwork {});
    assert!(stands());
    // Once more, and nothing is done.
    ok(&client, &Request::EnsureNetwork {});
    println!("{}", world.log());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    let host = world.network();
    ip(host, "link add banger0 type bridge");
    assert_eq!(
        code(&client, &Request::EnsureNetwork {}),
        RefusalCode::Conflict
    );
    ok(&client, &Request::RemoveNetwork {});
    assert!(ip(host, "link show banger0").contains("banger0"));
    ip(host, "link del banger0");
    ip(host, "link add lan0 type veth peer name lan1");
    ip(host, "addr add 172.16.0.200/16 dev lan0");
    let refused = call(&client, &Request::EnsureNetwork {}, &[]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Conflict);
    assert!(refused.message.contains("lan0"), "{refused}");
    assert!(!ip(host, "link").contains("banger0"));
    ip(host, "link del lan0");
    ok(&client, &Request::EnsureNetwork {});
    let name = TapName::of(&vm(1));
    ip(host, &format!("link add {} type bridge", name.as_str()));
    let address = Ipv4Addr::new(172, 16, 0, 2);
    let tap = Request::EnsureTap {
        vm: vm(1),
        address,
        nat: false,
    };
    assert_eq!(code(&client, &tap), RefusalCode::Conflict);
    ok(&client, &Request::RemoveTap { vm: vm(1) });
    assert!(ip(host, "link").contains(name.as_str()));
}

#[test]
fn names_are_served_on_the_bridge_only() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    assert_eq!(
        code(&client, &Request::OpenGuestDns {}),
        RefusalCode::Unknown
    );
    ok(&client, &Request::EnsureNetwork {});
    let address = Ipv4Addr::new(172, 16, 0, 2);
    let one = guest(&world, &client, &vm(1), address, false);
    let (reply, mut sockets) = call(&client, &Request::OpenGuestDns {}, &[]).unwrap();
    assert_eq!((reply, sockets.len()), (Reply::GuestDns {}, 2));
    let taken = code(&client, &Request::OpenGuestDns {});
    assert_eq!(taken, RefusalCode::Conflict, "they are held here");
    let (tcp, udp) = (
        sockets.pop().unwrap(),
        UdpSocket::from(sockets.pop().unwrap()),
    );
    udp.set_nonblocking(false).unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let asker = inside(one.pid(), || {
        let asker = UdpSocket::bind((address, 0)).unwrap();
        asker.send_to(b"who", (HOST, 53)).unwrap();
        asker
    });
    let mut question = [0; 8];
    let (length, from) = udp.recv_from(&mut question).unwrap();
    assert_eq!(
        (&question[..length], from.ip()),
        (&b"who"[..], address.into())
    );
    udp.send_to(b"you", from).unwrap();
    asker.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(asker.recv(&mut question).unwrap(), 3);
    let target = SocketAddrV4::new(HOST, 53).into();
    inside(one.pid(), || TcpStream::connect_timeout(&target, PATIENCE)).unwrap();
    drop((tcp, udp));
    call(&client, &Request::OpenGuestDns {}, &[]).unwrap();
}
