//! A VM's life as its owner sees it.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::echo::Echo;
use super::guest::{Guest, PATIENCE};
use super::{Length, Test, Vmm};
use crate::host::Host;
use crate::wait;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    [
        Test::each(
            "life/stop-start-restart-kill-and-set-keep-both-disks",
            Length::Smoke,
            change,
        ),
        Test::each(
            "life/poweroff-reboot-and-panic-are-told-apart",
            Length::Smoke,
            ends,
        ),
        Test::each("life/debian-create-ssh-exec-delete", Length::Smoke, debian),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn change(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &["--disk-size", "2G"])?;
    let identity = "hostname; id -u; cat /etc/machine-id";
    let machine = guest.sh(identity)?;
    ensure!(
        machine.starts_with(&format!("{}\n0\n", guest.name)),
        "{machine}"
    );
    guest.sh("echo in-root > /kept; echo at-home > /root/kept; sync")?;
    guest.vm("stop")?;
    ensure!(guest.field("phase")? == "stopped", "{}", guest.show()?);
    ensure!(
        guest.field("vmm_pid")? == "null",
        "a stopped VM has a process: {}",
        guest.show()?
    );

    let sizes = [
        "vm",
        "set",
        "--memory",
        "384",
        "--vcpu",
        "2",
        "--disk-size",
        "3G",
        &guest.name,
    ];
    host.banger(&sizes)?.ok()?;
    let smaller = host.banger(&["vm", "set", "--disk-size", "1G", &guest.name])?;
    ensure!(smaller.code != 0, "{}", smaller.describe());
    guest.vm("start")?;
    let seen = guest.sh(
        "nproc; awk '/^MemTotal/ { print ($2 > 300000) }' /proc/meminfo; \
         df -k /root | awk 'NR == 2 { print ($2 > 2600000) }'; cat /kept /root/kept",
    )?;
    ensure!(
        seen == "2\n1\n1\nin-root\nat-home",
        "processors, memory, disk and data are {seen}"
    );
    ensure!(guest.sh(identity)? == machine, "it is another machine");

    let before = guest.boot_id()?;
    guest.vm("restart")?;
    ensure!(guest.boot_id()? != before, "it is the same boot");
    ensure!(
        guest.sh("cat /kept /root/kept")? == "in-root\nat-home",
        "what was written is gone"
    );
    // NAT at any time, sizes only while it does not run.
    host.banger(&["vm", "set", "--nat", &guest.name])?.ok()?;
    ensure!(guest.show()?["nat"] == true, "{}", guest.show()?);
    let running = host.banger(&["vm", "set", "--memory", "512", &guest.name])?;
    ensure!(running.code == 5, "{}", running.describe());
    guest.vm("kill")?;
    ensure!(guest.field("phase")? == "stopped", "{}", guest.show()?);
    Ok(())
}

fn ends(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    let first = guest.boot_id()?;
    guest.sh("echo 1 > /root/marker; sync")?;
    let _ = guest.exec(&["reboot"])?;
    guest.wait_for_another_boot(&first)?;
    ensure!(
        guest.sh("cat /root/marker")? == "1",
        "the work disk lost a file"
    );

    let _ = guest.exec(&["poweroff"])?;
    guest.wait_for_phase("stopped")?;

    guest.vm("start")?;
    // The guest dies before it answers.
    let _ = guest.exec(&[
        "sh",
        "-c",
        "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger",
    ])?;
    guest.wait_for_phase("failed")?;
    let shown = guest.show()?;
    ensure!(shown["last_error"].is_object(), "nothing says why: {shown}");
    Ok(())
}

fn debian(host: &Host, vmm: Vmm) -> Result<()> {
    host.take_along("images/debian-bookworm")?;
    let guest = Guest::create(host, vmm, &["--memory", "512", "--vcpu", "2"])?;
    ensure!(!guest.stages.is_empty(), "its create told no stages");
    for (title, took) in &guest.stages {
        host.note(format!("debian on {}: {title}", vmm.name()), *took);
    }
    let start = Instant::now();
    host.banger(&["vm", "ssh", &guest.name, "--", "true"])?
        .ok()?;
    host.note(
        format!("debian on {}: first ssh", vmm.name()),
        start.elapsed(),
    );
    let said = host.banger(&[
        "vm",
        "ssh",
        &guest.name,
        "--",
        "hostname; systemctl is-active ssh; exit 3",
    ])?;
    ensure!(said.code == 3, "{}", said.describe());
    ensure!(
        said.stdout == format!("{}\nactive\n", guest.name),
        "{}",
        said.describe()
    );
    ensure!(
        !said.stderr.contains("authenticity"),
        "ssh asks: {}",
        said.describe()
    );
    ensure!(
        guest.sh(". /etc/os-release; echo $VERSION_CODENAME")? == "bookworm",
        "not Debian"
    );
    // An open ssh session does not notice that daemon and helper are killed.
    let mut session = Echo::open(host, &format!("banger vm ssh {} -- cat", guest.name))?;
    session.say("before")?;
    host.root(
        "systemctl kill --kill-whom=main --signal=KILL bangerd.service bangerd-root.service",
    )?;
    session.say("while they are dead")?;
    wait::until("the VM is adopted", PATIENCE, || {
        let asked = guest.exec(&["true"])?;
        Ok((asked.code == 0).then_some(()))
    })?;
    session.say("after")?;
    session.end()?;
    host.banger(&["vm", "delete", &guest.name])?.ok()?;
    let gone = host.banger(&["vm", "show", &guest.name])?;
    ensure!(gone.code == 4, "it is still there: {}", gone.describe());
    Ok(())
}

/// Stops its VMM as an administrator might; it is in a unit of its own.
fn freeze(host: &Host, guest: &Guest<'_>, why: &str) -> Result<()> {
    let pid = guest.field("vmm_pid")?;
    host.root(&format!("kill -STOP {pid}"))?;
    guest.wait_for_phase("paused")?;
    assert_paused(host, guest, why)
}

/// It stands still, which is told with the reason, and its unit goes on.
fn assert_paused(host: &Host, guest: &Guest<'_>, why: &str) -> Result<()> {
    let pid = guest.field("vmm_pid")?;
    let state = host.root(&format!("cut -d' ' -f3 /proc/{pid}/stat"))?;
    ensure!(state == "T", "the VMM is in state {state}");
    let unit = format!("banger-vm-{}.service", guest.field("id")?);
    let unit = host.root(&format!("systemctl is-active {unit}"))?;
    ensure!(unit == "active", "its unit is {unit}");
    let reason = guest.field("pause_reason")?;
    ensure!(reason.contains(why), "{reason}");
    let asked = guest.exec(&["true"])?;
    ensure!(
        asked.code == 125 && asked.stderr.contains("[vm_paused]") && asked.stderr.contains(why),
        "{}",
        asked.describe()
    );
    Ok(())
}

fn paused(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    let why = "by a signal";
    guest.sh("echo kept > /root/kept; sync")?;
    let boot = guest.boot_id()?;
    freeze(host, &guest, why)?;
    // A daemon and a helper that start anew see it.
    host.root("systemctl restart bangerd-root.service bangerd.service")?;
    guest.wait_for_phase("running")?;
    ensure!(guest.boot_id()? == boot, "it was not paused but restarted");
    freeze(host, &guest, why)?;
    guest.vm("start")?;
    ensure!(guest.boot_id()? == boot, "it was not paused but restarted");
    for verb in ["stop", "kill"] {
        freeze(host, &guest, why)?;
        guest.vm(verb)?;
        ensure!(guest.field("phase")? == "stopped", "{}", guest.show()?);
        guest.vm("start")?;
        ensure!(guest.sh("cat /root/kept")? == "kept", "after {verb}");
    }
    freeze(host, &guest, why)?;
    guest.vm("delete")
}

fn nearly_full(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    guest.sh("(while :; do cat /proc/uptime >> /root/log; sleep 1; done) >/dev/null 2>&1 &")?;
    let boot = guest.boot_id()?;
    let filler = Filler::leave(host, 300)?;
    guest.wait_for_phase("paused")?;
    assert_paused(host, &guest, "disk is nearly full")?;
    let started = host.banger(&["vm", "create", "--image", "debian-minimal"])?;
    ensure!(
        started.code == 1 && started.stderr.contains("[disk_full]"),
        "{}",
        started.describe()
    );
    drop(filler);
    guest.wait_for_phase("running")?;
    ensure!(guest.boot_id()? == boot, "it was restarted");
    let errors = guest.sh("dmesg | grep -ciE 'i/o error|ext4-fs error|remounting' || true")?;
    ensure!(errors == "0", "{errors} errors in the guest's log");
    guest.vm("stop")
}

/// A file that takes what is free where VMs are, but for a rest; removed with the value.
struct Filler<'a>(&'a Host);

impl<'a> Filler<'a> {
    const PATH: &'static str = "/var/lib/banger/filler";

    fn leave(host: &'a Host, mib: u64) -> Result<Self> {
        let avail = host.root("df --output=avail -k /var/lib/banger | tail -n 1")?;
        let kib = avail.trim().parse::<u64>()?.saturating_sub(mib << 10);
        let filler = Self(host);
        host.root(&format!("fallocate -l {kib}K {}", Self::PATH))?;
        Ok(filler)
    }
}

impl Drop for Filler<'_> {
    fn drop(&mut self) {
        let _ = self.0.root(&format!("rm -f {}", Self::PATH));
    }
}
