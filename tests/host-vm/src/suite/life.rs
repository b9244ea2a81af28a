//! A VM's life as its owner sees it.

use anyhow::{Result, ensure};

use super::guest::Guest;
use super::{Length, Test, Vmm};
use crate::host::Host;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    [
        Test::each(
            "life/stop-and-start-keep-both-disks",
            Length::Smoke,
            stop_and_start,
        ),
        Test::each(
            "life/poweroff-reboot-and-panic-are-told-apart",
            Length::Smoke,
            ends,
        ),
        Test::each("life/two-vms-share-a-base-image", Length::Smoke, two),
        Test::each("life/debian-create-ssh-exec-delete", Length::Smoke, debian),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn stop_and_start(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    let machine = guest.sh("hostname; id -u; cat /etc/machine-id")?;
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
    guest.vm("start")?;
    ensure!(
        guest.sh("cat /kept /root/kept")? == "in-root\nat-home",
        "what was written is gone"
    );
    ensure!(
        guest.sh("hostname; id -u; cat /etc/machine-id")? == machine,
        "it is another machine"
    );
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

fn two(host: &Host, vmm: Vmm) -> Result<()> {
    // Without the holes, of which there are gigabytes.
    let digest =
        "cd /var/lib/banger/images/debian-minimal && tar --sparse -cf - */*.ext4 | sha256sum";
    let before = host.root(digest)?;
    let (one, other) = (
        Guest::minimal(host, vmm, &[])?,
        Guest::minimal(host, vmm, &[])?,
    );
    for guest in [&one, &other] {
        guest.sh(&format!(
            "echo {0} > /mine; echo {0} > /root/mine; sync",
            guest.name
        ))?;
    }
    for guest in [&one, &other] {
        ensure!(
            guest.sh("cat /mine /root/mine")? == format!("{0}\n{0}", guest.name),
            "the VMs share a disk"
        );
    }
    let addresses = [one.field("address")?, other.field("address")?];
    ensure!(addresses[0] != addresses[1], "both are {}", addresses[0]);
    drop(one);
    ensure!(
        other.sh("cat /mine")? == other.name,
        "the other's end was felt"
    );
    drop(other);
    ensure!(host.root(digest)? == before, "the base image changed");
    Ok(())
}

fn debian(host: &Host, vmm: Vmm) -> Result<()> {
    host.take_along("images/debian-bookworm")?;
    let guest = Guest::create(host, vmm, &["--memory", "512", "--vcpu", "2"])?;
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
    host.banger(&["vm", "delete", &guest.name])?.ok()?;
    let gone = host.banger(&["vm", "show", &guest.name])?;
    ensure!(gone.code == 4, "it is still there: {}", gone.describe());
    Ok(())
}
