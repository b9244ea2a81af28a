//! Real packets between namespaces: default-deny, NAT, pinned sources.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};

use banger_core::TapName;
use banger_root_proto::{RefusalCode, Reply, Request};
use common::packets::{
    BEYOND, HOST, PATIENCE, SILENCE, arrives, beyond, connects, datagram, guest, pings,
};
use common::{World, call, code, inside, ip, ok, skipped, tool, vm};

fn nft(world: &World, args: &[&str]) -> String {
    tool(world.network(), &[&["nft"], args].concat()).unwrap()
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
    assert_eq!(arrives(one, one_ip, two, two_ip, 7000), Some(one_ip));
    assert!(connects(one, two, two_ip, 7001, PATIENCE));
    assert!(connects(host, one, one_ip, 7002, PATIENCE));
    // The host answers names and pings, and nothing else; under its other addresses nothing.
    assert!(pings(one, HOST, PATIENCE));
    assert_eq!(arrives(one, one_ip, host, HOST, 53), Some(one_ip));
    assert!(connects(one, host, HOST, 53, PATIENCE));
    assert!(!connects(one, host, HOST, 22, SILENCE));
    assert_eq!(datagram(one, one_ip, host, HOST, 5353), None);
    let other = Ipv4Addr::new(10, 99, 0, 1);
    assert!(!pings(two, other, SILENCE));
    assert!(!connects(two, host, other, 53, SILENCE));
    // Without NAT nothing leaves; with it, it leaves under the host's address.
    assert_eq!(datagram(one, one_ip, far, BEYOND, 7003), None);
    assert!(!connects(one, far, BEYOND, 7004, SILENCE));
    assert_eq!(datagram(one, one_ip, far, BEYOND, 53), None);
    assert!(!connects(one, far, BEYOND, 53, SILENCE));
    assert!(!pings(one, BEYOND, SILENCE));
    assert_eq!(arrives(two, two_ip, far, BEYOND, 7005), Some(other));
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
    assert_eq!(arrives(one, one_ip, two, two_ip, 7000), Some(one_ip));

    // All know each other's MAC: what is dropped now is dropped for its address.
    assert!(pings(one, HOST, PATIENCE) && pings(two, HOST, PATIENCE));

    // Another address, that of nobody or of a neighbour's.
    ip(one, &format!("addr add {forged}/32 dev eth0"));
    assert_eq!(datagram(one, forged, two, two_ip, 7001), None);
    assert_eq!(datagram(one, forged, host, HOST, 53), None);
    ip(two, &format!("addr add {one_ip}/32 dev eth0"));
    assert_eq!(datagram(two, one_ip, host, HOST, 53), None);
    assert_eq!(arrives(two, two_ip, host, HOST, 53), Some(two_ip));
    ip(two, &format!("addr del {one_ip}/32 dev eth0"));
    // Nor does it say of another address that it is its own.
    ip(two, "neigh flush dev eth0");
    ip(two, &format!("addr add {forged}/32 dev eth0"));
    assert_eq!(datagram(host, HOST, two, forged, 7003), None);
    // Both at once.
    ip(two, "link set eth0 address 06:11:22:33:44:66");
    assert_eq!(datagram(two, forged, host, HOST, 53), None);
    assert_eq!(datagram(two, two_ip, host, HOST, 53), None);
    ip(two, &format!("link set eth0 address {}", vm(2).mac()));
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
    let nft = |args: &[&str]| nft(&world, args);
    let stands = || match ok(&client, &Request::List {}) {
        Reply::Owned(facts) => facts.network,
        other => panic!("{other:?}"),
    };
    assert!(stands());
    let before = nft(&["list", "ruleset"]);
    assert!(before.contains("bgr01"), "{before}");
    nft(&["flush", "ruleset"]);
    // By itself or because it is asked, whichever comes first.
    ok(&client, &Request::EnsureNetwork {});
    assert!(stands());
    assert_eq!(nft(&["list", "ruleset"]), before);
    // A table without its rules is put right by itself only after a while.
    nft(&["flush", "table", "inet", "banger_banger0"]);
    assert_ne!(nft(&["list", "ruleset"]), before);
    ok(&client, &Request::EnsureNetwork {});
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
fn an_address_is_taken_as_long_as_its_tap_exists() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    ok(&client, &Request::EnsureNetwork {});
    let tap = |number| Request::EnsureTap {
        vm: vm(number),
        address: Ipv4Addr::new(172, 16, 0, 2),
        nat: false,
    };
    ok(&client, &tap(1));
    assert_eq!(code(&client, &tap(2)), RefusalCode::Conflict);
    // The tap goes without the helper.
    let lost = TapName::of(&vm(1));
    ip(world.network(), &format!("link del {}", lost.as_str()));
    ok(&client, &tap(2));
    assert_eq!(code(&client, &tap(1)), RefusalCode::Conflict);
    assert!(!ip(world.network(), "link").contains(lost.as_str()));
    ok(&client, &Request::RemoveTap { vm: vm(1) });
    assert!(ip(world.network(), "link").contains(TapName::of(&vm(2)).as_str()));
}

#[test]
fn a_network_whose_last_tap_was_lost_can_be_removed() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    ok(&client, &Request::EnsureNetwork {});
    let tap = Request::EnsureTap {
        vm: vm(1),
        address: Ipv4Addr::new(172, 16, 0, 2),
        nat: false,
    };
    ok(&client, &tap);
    assert_eq!(code(&client, &Request::RemoveNetwork {}), RefusalCode::Busy);
    // As after the end of the namespace that all of it was in: the ledger alone knows the tap.
    let links = [TapName::of(&vm(1)).as_str(), "banger0"].map(|name| format!("link del {name}"));
    for link in &links {
        ip(world.network(), link);
    }
    ok(
        &client,
        &Request::TendNetwork {
            names: None,
            pool: 0,
        },
    );
    assert!(ip(world.network(), "link").contains("banger0"));
    ok(&client, &Request::RemoveNetwork {});
    assert!(!ip(world.network(), "link").contains("banger0"));
    assert!(!nft(&world, &["list", "tables"]).contains("banger"));
}

#[test]
fn a_subnet_that_something_else_leads_to_is_a_conflict() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    let host = world.network();
    // As Docker's own bridge, without a container: an address and no carrier.
    ip(host, "link add docker0 type bridge");
    ip(host, "addr add 172.16.0.129/25 dev docker0");
    let refused = call(&client, &Request::EnsureNetwork {}, &[]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Conflict);
    assert!(refused.message.contains("docker0"), "{refused}");
    let taken = || match ok(&client, &Request::InspectNetwork {}) {
        Reply::Network(facts) => facts.taken,
        other => panic!("{other:?}"),
    };
    assert_eq!(taken(), Some(refused.message));
    ip(host, "link del docker0");
    // A route into the subnet, and one that leads to much more.
    ip(host, "link add lan0 type veth peer name lan1");
    ip(host, "addr add 10.1.0.1/24 dev lan0");
    ip(host, "link set lan0 up");
    ip(host, "route add 172.16.0.0/24 via 10.1.0.2");
    let refused = call(&client, &Request::EnsureNetwork {}, &[]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Conflict);
    assert!(refused.message.contains("lan0"), "{refused}");
    ip(host, "route del 172.16.0.0/24 via 10.1.0.2");
    ip(host, "route add 172.16.0.0/12 via 10.1.0.2");
    ok(&client, &Request::EnsureNetwork {});
    ok(&client, &Request::EnsureNetwork {});
    assert_eq!(taken(), None);
}

#[test]
fn packets_for_guests_never_follow_the_default_route() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    let host = world.network();
    let _far = beyond(&world);
    ip(host, &format!("route add default via {BEYOND}"));
    ok(&client, &Request::EnsureNetwork {});
    let way = || ip(host, "route get 172.16.0.9");
    assert!(way().contains("dev banger0"), "{}", way());
    ip(host, "link set banger0 down");
    let refused = inside(host, || {
        TcpStream::connect_timeout(
            &SocketAddrV4::new([172, 16, 0, 9].into(), 1).into(),
            PATIENCE,
        )
    });
    let errno = refused.unwrap_err().raw_os_error();
    assert_eq!(errno, Some(rustix::io::Errno::HOSTUNREACH.raw_os_error()));
    ok(&client, &Request::RemoveNetwork {});
    assert!(way().contains("dev up0"), "{}", way());
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
