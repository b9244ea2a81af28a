//! What guests reach: each other by name; with NAT a second network namespace, without it nothing; and of the
//! host names and echoes.

use anyhow::{Result, ensure};

use super::guest::{Guest, PATIENCE};
use super::world::{World, fetch};
use super::{Length, Test, Vmm};
use crate::host::{Host, User};
use crate::wait;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    [
        Test::each_beside("network/names-pages-and-vm-to-vm", Length::Smoke, by_name),
        Test::each(
            "network/nat-reaches-the-world-and-without-it-nothing-does",
            Length::Smoke,
            nat,
        ),
        Test::best(
            "network/forged-addresses-are-dropped",
            Length::Whole,
            forged,
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
    one.sh("mkdir /www && echo from-one > /www/page && httpd -p 8080 -h /www")?;
    let url = format!("http://{}.vm:8080/page", one.name);
    let page = fetch(&other, &url)?;
    ensure!(page.stdout == "from-one\n", "{}", page.describe());
    // The host knows the names as well, through systemd-resolved.
    let page = host.dev(&format!("curl -sS --max-time 20 {url}"))?;
    ensure!(page == "from-one", "{page}");
    let address = one.field("address")?;
    let entry = host.dev(&format!("getent hosts {}.vm", one.name))?;
    ensure!(entry.starts_with(&format!("{address} ")), "{entry}");

    host.root("systemctl restart systemd-resolved")?;
    wait::until("the restarted resolver knows .vm", PATIENCE, || {
        let asked = host.run(User::Dev, &format!("getent hosts {}.vm", one.name))?;
        Ok((asked.code == 0 && asked.stdout.starts_with(&address)).then_some(()))
    })?;
    drop(one);
    let gone = host.run(User::Dev, &format!("curl -sS --max-time 20 {url}"))?;
    ensure!(gone.code != 0, "a deleted VM serves: {}", gone.describe());
    Ok(())
}

fn nat(host: &Host, vmm: Vmm) -> Result<()> {
    let world = World::make(host)?;
    let (with, without) = (
        Guest::minimal(host, vmm, &["--nat"])?,
        Guest::minimal(host, vmm, &[])?,
    );
    world.check(&with, &without)?;

    // Names of the world: with NAT, through the host's resolver; without, neither so nor past it.
    world.resolves_for_the_host()?;
    let named = "http://with.example/page";
    wait::until("the guest with NAT gets names", PATIENCE, || {
        let page = fetch(&with, named)?;
        Ok((page.stdout == "from-the-world\n").then_some(()))
    })?;
    let beyond = [
        "nslookup without.example",
        "nslookup without.example 198.51.100.2",
        "ping -c 1 198.51.100.2",
        "ping -c 1 10.0.2.2",
        "nc 198.51.100.2 80",
    ];
    let reached = which_succeed(&without, &beyond)?;
    ensure!(reached.is_empty(), "without NAT: {reached}");
    let asked = world.asked()?;
    ensure!(
        asked.contains("with.example") && !asked.contains("without.example"),
        "the world was asked: {asked}"
    );

    // Services of the host on all interfaces, by each of its addresses: not for guests.
    host.root(
        "systemd-run --quiet --collect --unit=on-all python3 -m http.server --bind 0.0.0.0 --directory /run/world 8099
         for i in $(seq 100); do curl -s -o /dev/null http://172.16.0.1:8099/page && exit 0; sleep 0.2; done; exit 1",
    )?;
    let reached = (|| {
        for guest in [&with, &without] {
            let services = [
                "wget -q -O - http://172.16.0.1:8099/page",
                "wget -q -O - http://198.51.100.1:8099/page",
                "wget -q -O - http://10.0.2.15:8099/page",
                "nc 172.16.0.1 22",
            ];
            let reached = which_succeed(guest, &services)?;
            ensure!(reached.is_empty(), "services of the host: {reached}");
            guest.sh("ping -c 1 -W 5 172.16.0.1; nslookup ns.vm 172.16.0.1")?;
        }
        Ok(())
    })();
    host.root("systemctl stop on-all")?;
    reached?;

    // Nobody outside begins a conversation with a guest, even one that knows the way.
    with.sh("mkdir /www && echo inside > /www/page && httpd -p 80 -h /www")?;
    let url = format!("http://{}/page", with.field("address")?);
    ensure!(host.dev(&format!("curl -sS {url}"))? == "inside", "control");
    host.root("ip -n world route add 172.16.0.0/24 via 198.51.100.1")?;
    let line = format!("ip netns exec world curl -sS --max-time 3 {url}");
    let said = host.run(User::Root, &line)?;
    ensure!(said.code != 0, "the world is let in: {}", said.describe());
    let said = host.run(User::Root, &line.replace("curl", "curl --interface uplink"))?;
    ensure!(said.code != 0, "the world is let in: {}", said.describe());
    Ok(())
}

/// Tries all in a guest at once, a few seconds long, and gives those that succeed.
fn which_succeed(guest: &Guest<'_>, lines: &[&str]) -> Result<String> {
    let mut script = String::new();
    for line in lines {
        script += &format!("(timeout 5 {line} </dev/null >/dev/null 2>&1 && echo '{line}') & ");
    }
    guest.sh(&(script + "wait"))
}

/// What another guest gets to see while one lies about who it is.
fn forged(host: &Host, vmm: Vmm) -> Result<()> {
    let (liar, other) = (
        Guest::minimal(host, vmm, &[])?,
        Guest::minimal(host, vmm, &[])?,
    );
    let address = other.field("address")?;
    let tap = format!("bgr{}", other.field("id")?);
    host.root(&format!(
        "systemd-run --quiet --collect --unit=seen -p StandardOutput=file:/run/seen tcpdump -l -e -n -i {tap} 'arp or icmp'"
    ))?;
    let tried = (|| {
        // The control: what is honest arrives and is seen.
        let mac = liar.sh("cat /sys/class/net/eth0/address")?;
        wait::until("an honest ping is seen", PATIENCE, || {
            liar.sh(&format!("ping -c 1 -W 5 {address}"))?;
            Ok(host.root("cat /run/seen")?.contains(&mac).then_some(()))
        })?;
        let mine = liar.field("address")?;
        // Of these, nothing arrives and nothing is answered.
        let lies = [
            format!(
                "ip addr add 172.16.0.200/24 dev eth0; ping -c 2 -W 2 -I 172.16.0.200 {address}"
            ),
            "ping -c 2 -W 2 -I 172.16.0.200 172.16.0.1".to_owned(),
            "arping -c 2 -w 4 -U -I eth0 -s 172.16.0.200 172.16.0.200".to_owned(),
            // The bridge's own address, to take over what goes to the host.
            format!(
                "ip addr add 172.16.0.1/32 dev eth0; arping -c 2 -w 4 -A -I eth0 -s 172.16.0.1 {address}"
            ),
            format!(
                "ip addr del 172.16.0.200/24 dev eth0; ip addr del 172.16.0.1/32 dev eth0; ip link set eth0 down && \
                 ip link set eth0 address 02:00:00:00:00:99 && ip link set eth0 up && \
                 ping -c 2 -W 2 -I {mine} {address}"
            ),
        ];
        for lie in &lies {
            let said = liar.exec(&["sh", "-c", lie])?;
            ensure!(
                !said.stdout.contains("bytes from") && !said.stderr.contains("not found"),
                "{}",
                said.describe()
            );
        }
        liar.sh(&format!(
            "ip link set eth0 down; ip link set eth0 address {mac}; ip link set eth0 up; ping -c 2 -W 5 {address}"
        ))?;
        let seen = host.root("cat /run/seen")?;
        for forged in ["172.16.0.200", "02:00:00:00:00:99", "172.16.0.1 is-at 06:"] {
            let honest = |line: &&str| line.contains("06:ba:00:10:00:01");
            let line = seen
                .lines()
                .find(|line| line.contains(forged) && !honest(line));
            ensure!(line.is_none(), "{forged} has arrived: {line:?}");
        }
        Ok(())
    })();
    host.root("systemctl stop seen; rm -f /run/seen")?;
    tried
}
