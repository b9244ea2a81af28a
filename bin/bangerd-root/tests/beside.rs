//! Beside other firewalls: Docker's hook, somebody's default drop, and whoever flushes everything.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

mod common;

use std::net::Ipv4Addr;

use banger_core::TapName;
use banger_root_proto::{
    Client, Hook, Neighbour, NetworkFacts, NetworkRepair, RefusalCode, Reply, Request,
};
use common::packets::{BEYOND, HOST, PATIENCE, SILENCE, arrives, beyond, connects, guest, pings};
use common::{World, code, inside, ip, ok, skipped, tool, until, vm};

fn inspect(client: &Client) -> NetworkFacts {
    match ok(client, &Request::InspectNetwork {}) {
        Reply::Network(facts) => facts,
        other => panic!("{other:?}"),
    }
}

fn tend(client: &Client, pool: u8) -> Vec<NetworkRepair> {
    match ok(client, &Request::TendNetwork { names: None, pool }) {
        Reply::Tended { repairs, .. } => repairs,
        other => panic!("{other:?}"),
    }
}

fn no_iptables() -> bool {
    let missing = std::process::Command::new("iptables")
        .arg("-V")
        .output()
        .is_err();
    if missing {
        println!("SKIPPED(iptables): `iptables` is missing");
    }
    missing
}

/// What Docker does at its start.
fn docker_starts(host: u32) {
    for words in [
        "-N DOCKER-USER",
        "-A DOCKER-USER -d 10.99.0.3/32 -j DROP",
        "-A DOCKER-USER -j RETURN",
        "-P FORWARD DROP",
        "-A FORWARD -j DOCKER-USER",
    ] {
        let words: Vec<&str> = ["iptables"].into_iter().chain(words.split(' ')).collect();
        tool(host, &words).unwrap();
    }
}

fn docker_user(host: u32) -> String {
    tool(host, &["iptables", "-S", "DOCKER-USER"]).unwrap_or_default()
}

#[test]
fn guests_get_through_dockers_default_drop() {
    if skipped() || no_iptables() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    let host = world.network();
    docker_starts(host);
    let before = docker_user(host);
    ok(&client, &Request::EnsureNetwork {});
    let far = beyond(&world);
    ip(far.pid(), "addr add 10.99.0.3/24 dev eth0");
    let [one_ip, two_ip] = [2, 3].map(|last| Ipv4Addr::new(172, 16, 0, last));
    let one = guest(&world, &client, &vm(1), one_ip, false);
    let two = guest(&world, &client, &vm(2), two_ip, true);
    let (one, two, far) = (one.pid(), two.pid(), far.pid());
    // Also where bridged packets pass the chain FORWARD.
    assert_eq!(arrives(one, one_ip, two, two_ip, 7000), Some(one_ip));
    assert!(connects(two, one, one_ip, 7001, PATIENCE));
    assert!(connects(two, far, BEYOND, 7002, PATIENCE));
    assert!(pings(two, BEYOND, PATIENCE));
    // Docker's veto is gone, ours stands.
    assert!(!connects(one, far, BEYOND, 7003, SILENCE));
    assert!(!connects(far, two, two_ip, 7004, SILENCE));
    // What the administrator forbids there stays forbidden.
    assert!(!connects(
        two,
        far,
        Ipv4Addr::new(10, 99, 0, 3),
        7005,
        SILENCE
    ));
    let facts = inspect(&client);
    assert_eq!(facts.beside, [Neighbour::Docker]);
    assert_eq!((facts.beside_problem, facts.drops), (None, vec![]));

    let with_ours = docker_user(host);
    assert_eq!(
        with_ours.matches("banger:banger0").count(),
        2,
        "{with_ours}"
    );
    assert!(with_ours.trim().ends_with("-j RETURN"), "{with_ours}");
    for number in [1, 2] {
        ok(&client, &Request::RemoveTap { vm: vm(number) });
    }
    ok(&client, &Request::RemoveNetwork {});
    assert_eq!(docker_user(host), before);
}

#[test]
fn docker_may_come_later_and_lose_our_rule() {
    if skipped() || no_iptables() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    let host = world.network();
    ok(&client, &Request::EnsureNetwork {});
    assert_eq!(inspect(&client).beside, []);
    docker_starts(host);
    let has_ours = || docker_user(host).matches("banger:banger0").count() == 2;
    // Nobody asks for it: the helper hears of the change.
    until("our rule", has_ours);
    tool(host, &["iptables", "-F", "DOCKER-USER"]).unwrap();
    until("our rule", has_ours);
    println!("{}", world.log());
}

#[test]
fn a_default_drop_that_nothing_can_override_is_said_until_it_is_fixed() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    let host = world.network();
    ok(&client, &Request::EnsureNetwork {});
    let far = beyond(&world);
    let address = Ipv4Addr::new(172, 16, 0, 2);
    let one = guest(&world, &client, &vm(1), address, true);
    let (one, far) = (one.pid(), far.pid());
    let nft = |line: &str| tool(host, &["nft", line]).unwrap();
    nft(
        "table inet fort { chain through { type filter hook forward priority 10; policy drop; }; \
         chain here { type filter hook input priority 10; policy drop; }; }",
    );
    assert!(!connects(one, far, BEYOND, 7000, SILENCE));
    assert!(!pings(one, HOST, SILENCE));
    let facts = inspect(&client);
    let drops: Vec<_> = facts
        .drops
        .iter()
        .map(|drop| (drop.hook, drop.family.as_str(), drop.chain.as_str()))
        .collect();
    assert_eq!(
        drops,
        [
            (Hook::Forward, "inet", "through"),
            (Hook::Input, "inet", "here")
        ]
    );
    assert!(facts.stands && facts.forwarding);
    // The fix that `doctor` tells.
    nft("insert rule inet fort through iifname banger0 accept");
    nft("insert rule inet fort through oifname banger0 ct state established,related accept");
    nft("insert rule inet fort here iifname banger0 accept");
    assert!(connects(one, far, BEYOND, 7001, PATIENCE));
    assert!(pings(one, HOST, PATIENCE));
    assert_eq!(inspect(&client).drops, []);
}

#[test]
fn a_flushed_firewall_comes_back_by_itself() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    let host = world.network();
    ok(&client, &Request::EnsureNetwork {});
    let far = beyond(&world);
    let address = Ipv4Addr::new(172, 16, 0, 2);
    let one = guest(&world, &client, &vm(1), address, false);
    let ruleset = || tool(host, &["nft", "list", "ruleset"]).unwrap();
    let before = ruleset();
    for _ in 0..3 {
        tool(host, &["nft", "flush", "ruleset"]).unwrap();
        until("the firewall", || ruleset() == before);
        assert!(!connects(one.pid(), far.pid(), BEYOND, 7000, SILENCE));
    }
    // A rule less, and a member more.
    tool(
        host,
        &["nft", "flush", "chain", "inet", "banger_banger0", "input"],
    )
    .unwrap();
    until("the rules", || ruleset() == before);
    let forged = "add element inet banger_banger0 nat { 172.16.0.2 }";
    tool(host, &["nft", forged]).unwrap();
    until("the set", || ruleset() == before);
    let log = world.log();
    assert!(log.contains("verb=guard result=ok [Firewall]"), "{log}");
}

#[test]
fn two_owners_do_not_keep_each_other_busy() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let other = World::beside(&world, 4343, "other0", "172.20.0.1");
    let host = world.network();
    let clients = [world.client(), other.client()];
    for client in &clients {
        ok(client, &Request::EnsureNetwork {});
    }
    let ruleset = || tool(host, &["nft", "list", "ruleset"]).unwrap();
    for number in 0..10 {
        let name = format!("third{number}");
        tool(host, &["nft", "add", "table", "inet", &name]).unwrap();
    }
    for client in &clients {
        assert_eq!(tend(client, 0), []);
    }
    // From here on nobody writes: a look finds all as it was.
    let mut generations = vec![];
    for number in 0..5 {
        let name = format!("last{number}");
        tool(host, &["nft", "add", "table", "inet", &name]).unwrap();
        for client in &clients {
            assert_eq!(tend(client, 0), []);
        }
        generations.push(generation(host));
    }
    let one_by_one = |pair: &[u32]| pair[1] == pair[0] + 1;
    assert!(generations.windows(2).all(one_by_one), "{generations:?}");
    for world in [&world, &other] {
        assert!(!world.log().contains("verb=guard"), "{}", world.log());
    }
    tool(host, &["nft", "flush", "ruleset"]).unwrap();
    until("both firewalls", || {
        let ruleset = ruleset();
        ["inet banger_banger0", "bridge banger_other0"]
            .iter()
            .all(|table| ruleset.contains(table))
    });
}

/// How often the firewall was changed, by anybody.
fn generation(host: u32) -> u32 {
    let events = inside(host, banger_rootops::firewall_generation);
    events.unwrap()
}

#[test]
fn forwarding_ends_with_the_network_unless_others_need_it() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    let host = world.network();
    let forwards = || {
        let words = ["cat", "/proc/sys/net/ipv4/ip_forward"];
        tool(host, &words).unwrap().trim() == "1"
    };
    let round = || {
        ok(&client, &Request::EnsureNetwork {});
        let address = Ipv4Addr::new(172, 16, 0, 2);
        for nat in [false, true] {
            ok(
                &client,
                &Request::EnsureTap {
                    vm: vm(1),
                    address,
                    nat,
                },
            );
            assert_eq!(forwards(), nat);
        }
        ok(&client, &Request::RemoveTap { vm: vm(1) });
        ok(&client, &Request::RemoveNetwork {});
    };
    inside(host, || {
        std::fs::write(
            "/proc/thread-self/net/../../../sys/net/ipv4/ip_forward",
            "0",
        )
    })
    .ok();
    assert!(!forwards());
    round();
    assert!(!forwards());
    let table = "table ip nat2 { chain post { type nat hook postrouting priority 100; }; }";
    tool(host, &["nft", table]).unwrap();
    round();
    assert!(forwards());
}

#[test]
fn a_lost_bridge_is_made_again_and_taps_are_plugged_in() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    let host = world.network();
    assert_eq!(tend(&client, 0), []);
    assert!(!ip(host, "link").contains("banger0"));
    ok(&client, &Request::EnsureNetwork {});
    let address = Ipv4Addr::new(172, 16, 0, 2);
    let one = guest(&world, &client, &vm(1), address, false);
    assert_eq!(tend(&client, 0), []);
    // The kernel takes a moment to see carrier, and loses what is sent before.
    let reached = || pings(one.pid(), HOST, SILENCE);
    ip(host, "link del banger0");
    assert_eq!(tend(&client, 0), [NetworkRepair::Bridge]);
    until("an answer", reached);
    assert!(inspect(&client).stands);
    ip(host, "link set banger0 down");
    assert_eq!(tend(&client, 0), [NetworkRepair::Bridge]);
    until("an answer", reached);
}

#[test]
fn taps_are_kept_ready_renamed_and_drained() {
    if skipped() {
        return;
    }
    let mut world = World::new(4242);
    let client = world.client();
    let host = world.network();
    let ready = || ip(host, "link").matches("banger0-t").count();
    let index = |name: &str| {
        let shown = ip(host, &format!("-o link show {name}"));
        shown.split(':').next().unwrap().to_owned()
    };
    // Without a network there is nothing to keep ready.
    tend(&client, 3);
    assert_eq!(ready(), 0);
    ok(&client, &Request::EnsureNetwork {});
    tend(&client, 3);
    assert_eq!((ready(), inspect(&client).pool), (3, 3));
    let first = index("banger0-t0");
    let tap = |number: u8| Request::EnsureTap {
        vm: vm(number),
        address: Ipv4Addr::new(172, 16, 0, 1 + number),
        nat: false,
    };
    ok(&client, &tap(1));
    let name = TapName::of(&vm(1));
    assert_eq!(index(name.as_str()), first);
    assert!(ip(host, "link show master banger0").contains(name.as_str()));
    assert_eq!(ready(), 2);
    // One that is ready passes nothing: it is off.
    assert!(!ip(host, "link show up").contains("banger0-t"));
    tend(&client, 3);
    assert_eq!(ready(), 3);

    // A helper that was killed, in the middle of making one: what is there is taken over.
    world.end(rustix::process::Signal::KILL);
    ip(host, "tuntap add banger0-t9 mode tap");
    world.start();
    let client = world.client();
    tend(&client, 4);
    assert_eq!((ready(), inspect(&client).pool), (4, 4));
    // What has such a name and is somebody else's is left alone.
    ip(host, "link add banger0-t7 type bridge");
    ip(host, "link set banger0-t7 alias other");
    tend(&client, 1);
    assert_eq!((ready(), inspect(&client).pool), (2, 1));
    for number in 2..5 {
        ok(&client, &tap(number));
    }
    assert_eq!(inspect(&client).pool, 0);
    let too_many = Request::TendNetwork {
        names: None,
        pool: 33,
    };
    assert_eq!(code(&client, &too_many), RefusalCode::Invalid);
    tend(&client, 2);
    for number in 1..5 {
        ok(&client, &Request::RemoveTap { vm: vm(number) });
    }
    ok(&client, &Request::RemoveNetwork {});
    assert_eq!(ready(), 1);
}

#[test]
fn a_resolver_of_another_network_namespace_is_not_told() {
    if skipped() {
        return;
    }
    let world = World::new(4242);
    let client = world.client();
    ok(&client, &Request::EnsureNetwork {});
    let tended = ok(
        &client,
        &Request::TendNetwork {
            names: Some(42069),
            pool: 0,
        },
    );
    let nobody = Some(banger_root_proto::NamesRouting::Nobody {});
    let repairs = vec![];
    assert_eq!(
        tended,
        Reply::Tended {
            repairs,
            names: nobody
        }
    );
    let privileged = Request::TendNetwork {
        names: Some(53),
        pool: 0,
    };
    assert_eq!(code(&client, &privileged), RefusalCode::Invalid);
}
