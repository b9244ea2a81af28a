//! What dies, and what lives on.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::echo::Echo;
use super::guest::{Guest, PATIENCE};
use super::{Length, Test, Vmm, leaks};
use crate::host::Host;
use crate::wait;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    [
        Test::pair(
            "deaths/guests-and-streams-outlive-daemon-and-helper",
            Length::Smoke,
            daemons,
        ),
        Test::each_beside(
            "deaths/a-killed-vmm-is-a-failure-and-starts-again",
            Length::Whole,
            vmm_killed,
        ),
        Test::pair("deaths/an-upgrade-leaves-vms-alone", Length::Whole, upgrade),
        Test::pair(
            "deaths/host-reboot-leaves-vms-stopped-with-their-data",
            Length::Whole,
            reboot,
        ),
        Test::pair(
            "deaths/power-cut-keeps-what-was-synced",
            Length::Whole,
            power_cut,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn daemons(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    guest.sh(
        "(i=0; while :; do i=$((i+1)); echo $i > /run/count; sleep 1; done) >/dev/null 2>&1 &",
    )?;
    let line = format!("banger vm exec -i {} -- cat", guest.name);
    let mut open = Echo::open(host, &line)?;
    open.say("before")?;
    let pid = guest.field("vmm_pid")?;
    for victims in [
        "bangerd.service",
        "bangerd-root.service",
        "bangerd.service bangerd-root.service",
    ] {
        let count: u64 = guest.sh("cat /run/count")?.parse()?;
        host.kill_services(victims)?;
        open.say("while they are dead")?;
        // The daemon comes again by itself, and a call waits for it.
        guest.sh("true")?;
        wait::until("the guest counts on", PATIENCE, || {
            let now: u64 = guest.sh("cat /run/count")?.parse()?;
            Ok((now > count).then_some(()))
        })?;
        ensure!(
            guest.field("vmm_pid")? == pid,
            "after {victims}: {}",
            guest.show()?
        );
        ensure!(
            guest.field("phase")? == "running",
            "after {victims}: {}",
            guest.show()?
        );
    }
    open.say("after")?;
    open.end()
}

fn vmm_killed(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    let bystander = Guest::minimal(host, vmm, &[])?;
    host.root(&format!("kill -9 {}", guest.field("vmm_pid")?))?;
    guest.wait_for_phase("failed")?;
    guest.vm("start")?;
    ensure!(guest.sh("echo back")? == "back", "it does not answer");
    ensure!(bystander.sh("echo here")? == "here", "the other felt it");
    Ok(())
}

fn upgrade(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    let pid = guest.field("vmm_pid")?;
    host.once("the upgrade", || {
        let daemon = "systemctl show -P MainPID bangerd.service";
        let before = host.root(daemon)?;
        // Another build: the same programs, as files with another content.
        host.dev("cd ~/checkout/target/release && for p in banger bangerd bangerd-root banger-vhost-vsock; do echo >> $p; done")?;
        host.install()?;
        let after = host.root(daemon)?;
        ensure!(after != before, "the daemon is still the old one");
        Ok(())
    })?;
    ensure!(guest.sh("echo here")? == "here", "it does not answer");
    ensure!(
        guest.field("vmm_pid")? == pid,
        "it is another process: {}",
        guest.show()?
    );
    host.banger(&["system", "status"])?.ok()?;
    guest.vm("stop")?;
    guest.vm("start")?;
    ensure!(
        guest.sh("echo again")? == "again",
        "it does not start with the new programs"
    );
    Ok(())
}

fn reboot(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    // Nothing is synced: the guest is stopped as by its owner before the host goes down.
    guest.sh("echo in-root > /kept; echo at-home > /root/kept")?;
    host.once("the reboot", || host.reboot())?;
    back_after_a_host_boot(host, &guest)?;
    ensure!(
        guest.sh("cat /kept /root/kept")? == "in-root\nat-home",
        "what was written is gone"
    );
    Ok(())
}

fn power_cut(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    guest.sh("i=0; while [ $i -lt 200 ]; do echo file-$i > /root/f$i; i=$((i+1)); done; sync")?;
    let digest = guest.sh("cat /root/f* | md5sum")?;
    // And some that is not synced: it may be lost, and must harm nothing.
    guest.sh("(while :; do echo more >> /root/unsynced; done) >/dev/null 2>&1 &")?;
    host.once("the power cut", || host.cut_power())?;
    let id = guest.field("id")?;
    guest.wait_for_phase("stopped")?;
    // The journal is replayed first, as a mount would.
    let disk = format!("/var/lib/banger/vms/{id}/work.ext4");
    let check = host.root(&format!(
        "e2fsck -f -p -E journal_only {disk} >/dev/null; e2fsck -f -n {disk} 2>&1"
    ))?;
    ensure!(check.contains("work"), "e2fsck says {check}");
    back_after_a_host_boot(host, &guest)?;
    ensure!(
        guest.sh("cat /root/f* | md5sum")? == digest,
        "what was synced is not what is there"
    );
    Ok(())
}

/// After a boot of the host: stopped, clean, and it starts.
fn back_after_a_host_boot(host: &Host, guest: &Guest<'_>) -> Result<()> {
    wait::until(
        "the daemon answers after the boot",
        Duration::from_secs(120),
        || {
            let asked = host.banger(&["vm", "list"])?;
            Ok((asked.code == 0).then_some(()))
        },
    )?;
    guest.wait_for_phase("stopped")?;
    ensure!(
        guest.field("vmm_pid")? == "null",
        "it has a process: {}",
        guest.show()?
    );
    host.once("a look", || leaks::nothing_runs(host))?;
    guest.vm("start")
}
