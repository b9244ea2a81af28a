//! What guests call each other, and what they get of the world's names.

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use banger_e2e::{Banger, SMALL};

/// What everything in the world is at.
const WORLD: [u8; 4] = [192, 0, 2, 7];

/// A resolver that knows an address for every name, as long as the process lives.
fn resolver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(&answer(&packet[..length]), from);
        }
    });
    address
}

/// RFC 1035 section 4: the header, the question again, and for type A one record.
fn answer(question: &[u8]) -> Vec<u8> {
    let name = question[12..]
        .iter()
        .position(|byte| *byte == 0)
        .expect("a name");
    let end = 12 + name + 5;
    let is_address = question[end - 4..end - 2] == [0, 1];
    let counts = [0, 1, 0, u8::from(is_address), 0, 0, 0, 0];
    let mut answer = [&question[..2], &[0x81, 0x80], &counts, &question[12..end]].concat();
    if is_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(WORLD);
    }
    answer
}

#[test]
fn guests_have_each_others_names_and_with_nat_the_worlds() {
    let banger = Banger::from_env();
    // The default resolver is fixed when the daemon starts.
    banger.ok(&["daemon", "stop"]);
    let mut start = banger.command(&["daemon", "start"]);
    start.env("BANGER_DEFAULT_DNS", resolver().to_string());
    assert!(start.status().unwrap().success());
    let shut = banger.vm(SMALL);
    let open = banger.vm(&[SMALL, &["--nat"]].concat());
    let address = |vm: &banger_e2e::Vm| vm.show()["address"].as_str().unwrap().to_owned();
    // Both ways, and back. Busybox mixes the answers up when it asks for two types at once.
    for (asker, asked) in [(&shut, &open), (&open, &shut)] {
        let name = format!("{}.vm", asked.name);
        let found = asker.sh(&format!("nslookup -type=a {name}"));
        assert!(found.contains(&address(asked)), "{found}");
        let back = asker.sh(&format!("nslookup {}", address(asked)));
        assert!(back.contains(&name), "{back}");
    }
    let world = open.sh("nslookup -type=a banger.example");
    assert!(world.contains("192.0.2.7"), "{world}");
    let nothing = shut.exec(&["nslookup", "-type=a", "banger.example"]);
    assert_ne!(nothing.code, 0, "{}", nothing.stdout);
    assert!(!nothing.stdout.contains("192.0.2.7"), "{}", nothing.stdout);
    drop((shut, open));
    banger.ok(&["daemon", "stop"]);
}

/// The hardware address that this host takes for an address's, and would send to.
fn neighbour(address: &str) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/arp").expect("the kernel's table");
    let line = table
        .lines()
        .find(|line| line.split_whitespace().next() == Some(address))?;
    line.split_whitespace().nth(3).map(str::to_owned)
}

/// Free addresses are given out again at once, and whoever spoke with the last VM there has its hardware address still.
#[test]
fn who_gets_anothers_address_is_known_by_it_when_its_agent_answers() {
    let banger = Banger::from_env();
    let flags = ["--image", "debian-minimal", "--wait", "reachable"];
    let own = |vm: &banger_e2e::Vm| vm.sh("cat /sys/class/net/e*/address");
    let address = |vm: &banger_e2e::Vm| {
        let shown = vm.show();
        shown["address"].as_str().expect("an address").to_owned()
    };
    let first = banger.vm(&flags);
    let at = address(&first);
    // Nobody listens there; the question is answered all the same.
    drop(std::net::TcpStream::connect((at.as_str(), 9)));
    let before = own(&first);
    assert_eq!(neighbour(&at).as_deref(), Some(before.as_str()));
    drop(first);
    let second = banger.vm(&flags);
    assert_eq!(address(&second), at, "the lowest free one");
    let now = own(&second);
    assert_ne!(now, before);
    let known = neighbour(&at);
    assert!(
        known.is_none() || known == Some(now),
        "the host would send to {known:?}, the VM before"
    );
}
