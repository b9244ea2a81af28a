//! What guests reach: each other by name; with NAT a second network namespace, without it nothing.

use anyhow::{Result, ensure};

use super::guest::Guest;
use super::{Length, Test, Vmm};
use crate::host::Host;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    [
        Test::each("network/vm-to-vm-by-name", Length::Smoke, by_name),
        Test::each(
            "network/nat-reaches-the-world-and-without-it-nothing-does",
            Length::Smoke,
            nat,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn by_name(host: &Host, vmm: Vmm) -> Result<()> {
    let (one, other) = (
        Guest::minimal(host, vmm, &[])?,
        Guest::minimal(host, vmm, &[])?,
    );
    one.sh("mkdir /www && echo from-one > /www/page && httpd -p 80 -h /www")?;
    let page = other.sh(&format!("wget -q -O - http://{}.vm/page", one.name))?;
    ensure!(page == "from-one", "{page}");
    // The host knows the names as well, through systemd-resolved.
    let page = host.dev(&format!(
        "curl -sS --max-time 20 http://{}.vm/page",
        one.name
    ))?;
    ensure!(page == "from-one", "{page}");
    Ok(())
}

/// The internet of these tests: a network namespace with a web server, which knows no way back to guests.
struct World<'a>(&'a Host);

impl<'a> World<'a> {
    fn make(host: &'a Host) -> Result<Self> {
        let world = Self(host);
        host.root(
            "set -e
             ip netns add world
             ip link add to-world type veth peer name uplink netns world
             ip addr add 198.51.100.1/24 dev to-world; ip link set to-world up
             ip -n world addr add 198.51.100.2/24 dev uplink; ip -n world link set uplink up; ip -n world link set lo up
             ip route add 203.0.113.0/24 via 198.51.100.2
             ip netns exec world nft 'add table ip seen; add chain ip seen in { type filter hook prerouting priority 0; }
               add rule ip seen in ip saddr 172.16.0.0/12 counter comment \"guests\"'
             mkdir -p /run/world && echo from-the-world > /run/world/page
             systemd-run --quiet --unit=world -p NetworkNamespacePath=/run/netns/world \
               python3 -m http.server --bind 198.51.100.2 --directory /run/world 80
             for i in $(seq 100); do curl -s -o /dev/null http://198.51.100.2/page && exit 0; sleep 0.2; done; exit 1",
        )?;
        Ok(world)
    }

    /// Packets that came with a guest's own address.
    fn unmasked(&self) -> Result<String> {
        self.0
            .root("ip netns exec world nft list chain ip seen in | grep -o 'packets [0-9]*'")
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        let _ = self.0.root("systemctl stop world; ip netns del world; ip link del to-world 2>/dev/null; rm -rf /run/world");
    }
}

fn nat(host: &Host, vmm: Vmm) -> Result<()> {
    let world = World::make(host)?;
    let (with, without) = (
        Guest::minimal(host, vmm, &["--nat"])?,
        Guest::minimal(host, vmm, &[])?,
    );
    // Not by wget's own -T: that of Debian's static busybox crashes.
    let ask = [
        "timeout",
        "10",
        "wget",
        "-q",
        "-O",
        "-",
        "http://198.51.100.2/page",
    ];
    let page = with.exec(&ask)?;
    ensure!(page.stdout == "from-the-world\n", "{}", page.describe());
    let page = without.exec(&ask)?;
    ensure!(
        page.code != 0 && page.stdout.is_empty(),
        "without NAT: {}",
        page.describe()
    );
    // Dropped, not just without a way back: nothing of it comes out.
    let seen = world.unmasked()?;
    ensure!(
        seen == "packets 0",
        "the world saw guests' addresses: {seen}"
    );
    Ok(())
}
