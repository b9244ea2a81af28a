//! Beside other firewalls and other owners of names and addresses.

use anyhow::{Context as _, Result, ensure};

use super::guest::{Guest, PATIENCE};
use super::world::World;
use super::{Length, Test, Vmm};
use crate::host::{Host, User};
use crate::wait;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    [
        Test::best(
            "beside/other-firewalls-come-go-and-flush",
            Length::Whole,
            firewalls,
        ),
        Test::best(
            "beside/a-bridge-or-subnet-that-is-taken-is-left-alone",
            Length::Whole,
            taken,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Waits until what must be so is so: the helper is told of changes by the kernel, a little later.
fn settles(what: &str, world: &World<'_>, with: &Guest<'_>, without: &Guest<'_>) -> Result<()> {
    let mut last = None;
    wait::until("guests reach what they may", PATIENCE, || {
        match world
            .counts_anew()
            .and_then(|()| world.check(with, without))
        {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        }
    })
    .with_context(|| format!("{what}; last: {last:?}"))
}

/// Something of the host's that is undone, however the test ends.
struct Undo<'a>(&'a Host, &'static str);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let _ = self.0.root(self.1);
    }
}

fn firewalls(host: &Host, vmm: Vmm) -> Result<()> {
    let world = World::make(host)?;
    let (with, without) = (
        Guest::minimal(host, vmm, &["--nat"])?,
        Guest::minimal(host, vmm, &[])?,
    );
    world.check(&with, &without)?;

    // Somebody flushes everything. Without our tables a guest without NAT could try its luck.
    host.root("nft flush ruleset")?;
    settles("after nft flush ruleset", &world, &with, &without)?;

    {
        let _undo = Undo(host, "systemctl stop firewalld");
        host.root("systemctl start firewalld && firewall-cmd --state")?;
        settles("beside firewalld", &world, &with, &without)?;
        let zone = host.root("firewall-cmd --get-zone-of-interface=banger0")?;
        ensure!(zone == "trusted", "the bridge is in the zone {zone}");
        host.root("firewall-cmd --reload")?;
        settles("after firewalld's reload", &world, &with, &without)?;
        // Trusted by firewalld, and still only names and echoes.
        let ssh = with.exec(&["sh", "-c", "timeout 5 nc 172.16.0.1 22 </dev/null"])?;
        ensure!(ssh.stdout.is_empty(), "sshd: {}", ssh.describe());
    }
    settles("after firewalld's end", &world, &with, &without)?;

    {
        let _undo = Undo(
            host,
            "systemctl stop docker.socket docker containerd; ip link del docker0; nft delete table ip nat; \
             nft delete table ip filter; iptables -P FORWARD ACCEPT",
        );
        host.root("systemctl start docker")?;
        // As Docker does itself where packets were not forwarded before.
        host.root("iptables -P FORWARD DROP")?;
        settles("beside Docker", &world, &with, &without)?;
        let rules = host.root("iptables -S DOCKER-USER")?;
        ensure!(rules.contains("banger:banger0"), "{rules}");
        host.root("systemctl restart docker")?;
        settles("after Docker's restart", &world, &with, &without)?;
    }
    settles("after Docker's end", &world, &with, &without)?;

    // A drop without a hook: nothing overrides it, and doctor says which chain and what to add.
    let _undo = Undo(host, "nft delete table inet strict");
    host.root("nft 'add table inet strict; add chain inet strict forwarded { type filter hook forward priority 10; policy drop; }'")?;
    let doctor = || -> Result<String> {
        // Exit 0 with a warning, 1 with a failure.
        let said = host.run(User::Dev, "banger doctor")?;
        Ok(said.stdout)
    };
    let said = doctor()?;
    ensure!(said.contains("strict"), "doctor does not name it: {said}");
    let page = World::page_for(&with)?;
    ensure!(
        page.code != 0,
        "the drop does not drop: {}",
        page.describe()
    );
    host.root("nft 'add rule inet strict forwarded iifname banger0 accept; add rule inet strict forwarded oifname banger0 accept'")?;
    settles("with the rule added", &world, &with, &without)?;
    let said = doctor()?;
    ensure!(!said.contains("strict"), "doctor is not content: {said}");
    Ok(())
}

/// The network of banger's is made with the first VM. What somebody else has under its name or in its subnet is
/// named, and stays as it is.
fn taken(host: &Host, vmm: Vmm) -> Result<()> {
    let create = || {
        host.banger(&[
            "vm",
            "create",
            "--name",
            "never",
            "--image",
            "debian-minimal",
            "--memory",
            "256",
            "--vmm",
            vmm.name(),
        ])
    };
    let stop = "systemctl stop bangerd.service bangerd-root.service bangerd-root.socket; ip link del banger0; \
                rm -f /run/banger-root/installed/ledger.json";
    let _undo = Undo(
        host,
        "runuser -u dev -- banger vm delete never; systemctl stop bangerd.service bangerd-root.service; ip link del foreign0; ip link del banger0; \
         ip link del docker9; systemctl start bangerd-root.socket bangerd.service",
    );
    for (made, named) in [
        (
            "ip link add banger0 type bridge; ip link set banger0 up",
            "banger0",
        ),
        (
            "ip link add foreign0 type veth peer name foreign1; ip addr add 172.16.0.9/16 dev foreign0; ip link set foreign0 up",
            "foreign0",
        ),
        // As Docker takes a network for itself.
        (
            "ip link del foreign0; ip link add docker9 type bridge; ip addr add 172.16.0.1/24 dev docker9; ip link set docker9 up",
            "docker9",
        ),
    ] {
        host.root(stop).ok();
        host.root(made)?;
        let before = looks(host, named)?;
        host.root("systemctl start bangerd-root.socket bangerd.service")?;
        let said = create()?;
        ensure!(
            said.code == 3 && said.stderr.contains(named),
            "expected a conflict about {named}: {}",
            said.describe()
        );
        let doctor = host.run(User::Dev, "banger doctor")?;
        ensure!(
            doctor.code == 1 && doctor.stdout.contains(named),
            "{}",
            doctor.describe()
        );
        let after = looks(host, named)?;
        ensure!(before == after, "it was changed: {before} {after}");
        host.banger(&["vm", "delete", "never"])?;
    }
    drop(_undo);
    let guest = Guest::minimal(host, vmm, &[])?;
    guest.sh("ping -c 1 -W 5 172.16.0.1").map(drop)
}

/// All there is to say of a link, without what the kernel changes by itself.
fn looks(host: &Host, link: &str) -> Result<String> {
    let own = r"s/<[^>]*>| state [A-Z]+| [a-z_]*timer +[0-9.]+//g";
    host.root(&format!(
        "ip -d -o link show {link} | sed -E '{own}'; ip -o addr show {link}"
    ))
}
