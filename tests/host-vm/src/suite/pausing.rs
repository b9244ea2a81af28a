//! VMs that stand still: stopped by a signal, or because the host's disk is nearly full.

use anyhow::{Result, ensure};

use super::faults::base_digest;
use super::guest::{Guest, PATIENCE};
use super::{Length, Test, Vmm, leaks};
use crate::host::Host;
use crate::wait;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    let mut tests = Test::pair(
        "pausing/one-that-is-paused-goes-on-and-can-be-ended",
        Length::Whole,
        paused,
    );
    tests.extend(Test::pair(
        "pausing/vms-stand-still-while-the-disk-is-nearly-full",
        Length::Whole,
        nearly_full,
    ));
    tests
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
    host.once("daemon and helper start anew", || {
        host.root("systemctl restart bangerd-root.service bangerd.service")
            .map(drop)
    })?;
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

/// Both disks of a VM that does not run are clean, without a repair; a snapshot is put together for that.
fn fsck(host: &Host, guest: &Guest<'_>) -> Result<()> {
    let folder = format!("/var/lib/banger/vms/{}", guest.field("id")?);
    host.root(&format!("e2fsck -fn {folder}/work.ext4"))?;
    let digest = guest.field("image_digest")?;
    let base = format!(
        "/var/lib/banger/images/debian-minimal/{}/rootfs.ext4",
        &digest[..12]
    );
    host.root(&format!(
        "set -e; base=$(losetup -f --show -r {base}); store=$(losetup -f --show {folder}/root.cow)
         dmsetup create checked --table \"0 $(blockdev --getsz $base) snapshot $base $store P 8\"
         code=0; e2fsck -fn /dev/mapper/checked || code=$?
         dmsetup remove --retry checked; losetup -d $base $store; exit $code"
    ))
    .map(drop)
}

fn nearly_full(host: &Host, vmm: Vmm) -> Result<()> {
    let before = base_digest(host)?;
    let writer = Guest::minimal(host, vmm, &[])?;
    let other = Guest::minimal(host, vmm, &[])?;
    other.sh(
        "(i=0; while :; do i=$((i+1)); echo $i > /root/count; sleep 1; done) >/dev/null 2>&1 &",
    )?;
    writer.sh(
        "( i=0; while [ $i -lt 40 ]; do dd if=/dev/urandom of=/root/$i bs=1M count=1 2>>/root/errors && \
         md5sum /root/$i >> /root/sums; cp /root/$i /on-root; i=$((i + 1)); done; sync; echo whole > /root/done; sync ) \
         </dev/null >/dev/null 2>&1 &",
    )?;
    let filler = Filler::leave(host, 400)?;
    for guest in [&writer, &other] {
        guest.wait_for_phase("paused")?;
        assert_paused(host, guest, "disk is nearly full")?;
    }
    let list = host.banger(&["vm", "list"])?;
    ensure!(
        list.stdout.contains("paused") && list.stderr.contains("nearly full"),
        "{}",
        list.describe()
    );
    let name = format!("third-{}", vmm.name());
    let third = host.banger(&["vm", "create", "--name", &name, "--image", "debian-minimal"])?;
    ensure!(third.stderr.contains("disk_full"), "{}", third.describe());
    drop(filler);
    for guest in [&writer, &other] {
        guest.wait_for_phase("running")?;
        ensure!(guest.field("pause_reason")? == "null", "{}", guest.show()?);
    }
    let count: u64 = other.sh("cat /root/count")?.parse()?;
    wait::until("the other's counter goes on", PATIENCE, || {
        let now: u64 = other.sh("cat /root/count")?.parse()?;
        Ok((now > count).then_some(()))
    })?;
    wait::until("the writer is done", PATIENCE, || {
        let said = writer.exec(&["cat", "/root/done"])?;
        Ok((said.stdout == "whole\n").then_some(()))
    })?;
    let sums = writer.sh("md5sum -c /root/sums > /dev/null && wc -l < /root/sums")?;
    ensure!(sums == "40", "of 40 files {sums} are whole");
    for guest in [&writer, &other] {
        guest.vm("stop")?;
        fsck(host, guest)?;
    }
    drop((writer, other));
    host.once("a look", || leaks::nothing_runs(host))?;
    ensure!(base_digest(host)? == before, "the base image changed");
    Ok(())
}

/// A file that takes what is free where VMs are, but for a rest; removed with the value.
struct Filler<'a>(&'a Host);

impl<'a> Filler<'a> {
    const PATH: &'static str = "/var/lib/banger/filler";

    fn leave(host: &'a Host, mib: u64) -> Result<Self> {
        let filler = Self(host);
        host.once("the disk is filled", || {
            let avail = host.root("df --output=avail -k /var/lib/banger | tail -n 1")?;
            let kib = avail.trim().parse::<u64>()?.saturating_sub(mib << 10);
            host.root(&format!("fallocate -l {kib}K {}", Self::PATH))
                .map(drop)
        })?;
        Ok(filler)
    }
}

impl Drop for Filler<'_> {
    fn drop(&mut self) {
        let host = self.0;
        let _ = host.once("there is room again", || {
            host.root(&format!("rm -f {}", Self::PATH)).map(drop)
        });
    }
}
