//! The internet of these tests: a network namespace with a web server and a name server, which knows no way
//! back to guests but one that a test gives it.

use anyhow::{Result, ensure};

use super::guest::Guest;
use crate::host::{Finished, Host};

/// Answers every question for an address with its own, and writes down what it was asked by whom.
const NAME_SERVER: &str = r#"
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("198.51.100.2", 53))
while True:
    q, a = s.recvfrom(512)
    i, labels = 12, []
    while q[i]: labels.append(q[i+1:i+1+q[i]].decode()); i += q[i] + 1
    address = struct.unpack(">H", q[i+1:i+3])[0] == 1
    print(".".join(labels), a[0], flush=True)
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton("198.51.100.2") if address else b""
    s.sendto(q[:2] + b"\x81\x80\0\1\0" + bytes([address]) + b"\0\0\0\0" + q[12:i+5] + answer, a)
"#;

/// Counts what comes with a guest's own address.
const COUNT: &str = "add rule ip seen in ip saddr 172.16.0.0/12 counter comment \"guests\"";

/// Gone with the value.
pub(super) struct World<'a>(&'a Host);

impl<'a> World<'a> {
    /// Makes it, and waits until its servers answer.
    pub(super) fn make(host: &'a Host) -> Result<Self> {
        let world = Self(host);
        host.root(&format!(
            "set -e
             ip netns add world
             ip link add to-world type veth peer name uplink netns world
             ip addr add 198.51.100.1/24 dev to-world; ip link set to-world up
             ip -n world addr add 198.51.100.2/24 dev uplink; ip -n world link set uplink up; ip -n world link set lo up
             ip netns exec world nft 'add table ip seen; add chain ip seen in {{ type filter hook prerouting priority 0; }}
               {COUNT}'
             mkdir -p /run/world && echo from-the-world > /run/world/page
             cat > /run/world/names.py <<'END'\n{NAME_SERVER}\nEND
             run='systemd-run --quiet --collect -p NetworkNamespacePath=/run/netns/world'
             $run --unit=world python3 -m http.server --bind 198.51.100.2 --directory /run/world 80
             $run --unit=world-names -p StandardOutput=file:/run/world/asked python3 /run/world/names.py
             for i in $(seq 100); do
               curl -s -o /dev/null http://198.51.100.2/page && ss -N world -lnu | grep -q :53 && exit 0; sleep 0.2
             done; exit 1",
        ))?;
        Ok(world)
    }

    /// Forgets such packets: they came while somebody had taken the rules away and the helper had not put them back.
    pub(super) fn counts_anew(&self) -> Result<()> {
        let line = format!("ip netns exec world nft 'flush chain ip seen in; {COUNT}'");
        self.0.root(&line).map(drop)
    }

    /// Packets that came with a guest's own address.
    pub(super) fn unmasked(&self) -> Result<String> {
        self.0
            .root("ip netns exec world nft list chain ip seen in | grep -o 'packets [0-9]*'")
    }

    /// The names it was asked for, with who asked.
    pub(super) fn asked(&self) -> Result<String> {
        self.0.root("cat /run/world/asked")
    }

    /// Makes its name server the host's only one, until the value goes.
    pub(super) fn resolves_for_the_host(&self) -> Result<()> {
        let line = "resolvectl dns to-world 198.51.100.2 && resolvectl domain to-world '~.' && \
                    resolvectl dns enp0s1 '' && for i in $(seq 50); do \
                    grep -qx 'nameserver 198.51.100.2' /run/systemd/resolve/resolv.conf && exit 0; sleep 0.2; done; exit 1";
        self.0.root(line).map(drop)
    }

    /// Asks for the page from inside a guest.
    pub(super) fn page_for(guest: &Guest<'_>) -> Result<Finished> {
        fetch(guest, "http://198.51.100.2/page")
    }

    /// What must be so for a guest with NAT and one without, whatever else the host has.
    pub(super) fn check(&self, with: &Guest<'_>, without: &Guest<'_>) -> Result<()> {
        let page = Self::page_for(with)?;
        ensure!(
            page.stdout == "from-the-world\n",
            "with NAT: {}",
            page.describe()
        );
        let page = Self::page_for(without)?;
        ensure!(
            page.code != 0 && page.stdout.is_empty(),
            "without NAT: {}",
            page.describe()
        );
        // Dropped, not just without a way back: nothing of it comes out.
        let seen = self.unmasked()?;
        ensure!(
            seen == "packets 0",
            "the world saw guests' addresses: {seen}"
        );
        Ok(())
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        let _ = self.0.root(
            "resolvectl revert enp0s1; networkctl reconfigure enp0s1; systemctl stop world world-names
             ip netns del world; ip link del to-world 2>/dev/null; rm -rf /run/world",
        );
    }
}

/// A page, from inside a guest. Not by wget's own -T: that of Debian's static busybox crashes.
pub(super) fn fetch(guest: &Guest<'_>, url: &str) -> Result<Finished> {
    guest.exec(&["timeout", "5", "wget", "-q", "-O", "-", url])
}
