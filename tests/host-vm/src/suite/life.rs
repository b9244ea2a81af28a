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
        Test::each_beside(
            "life/stop-start-restart-kill-and-set-keep-both-disks",
            Length::Smoke,
            change,
        ),
        Test::each_beside(
            "life/poweroff-reboot-and-panic-are-told-apart",
            Length::Smoke,
            ends,
        ),
        Test::pair("life/debian-create-ssh-exec-delete", Length::Smoke, debian),
        Test::pair(
            "life/a-pulled-debian-is-as-good",
            Length::Whole,
            pulled_debian,
        ),
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
    of_image(host, vmm, "debian-bookworm")
}

/// The same tree as somebody else's OCI image.
fn pulled_debian(host: &Host, vmm: Vmm) -> Result<()> {
    of_image(host, vmm, "pulled-debian")?;
    let image = host.json(&["image", "show", "pulled-debian"])?;
    ensure!(image["origin"] == "pulled", "it was not pulled: {image}");
    // A VM of it is what its disks differ by.
    let guest = Guest::create(host, vmm, &["--image", "pulled-debian", "--no-start"])?;
    let (id, storage) = (guest.field("id")?, guest.field("storage")?);
    let used = host.root(&format!("sync; du -sk /var/lib/banger/vms/{id} | cut -f 1"))?;
    let kib: u64 = used.parse()?;
    ensure!(
        storage == "dm_snapshot" && kib < 10 << 10,
        "a new VM's {storage} and work disk take {kib} KiB"
    );
    Ok(())
}

fn of_image(host: &Host, vmm: Vmm, image: &str) -> Result<()> {
    host.once("the image is taken along", || {
        host.take_along(&format!("images/{image}"))
    })?;
    let flags = ["--image", image, "--memory", "512", "--vcpu", "2"];
    let guest = Guest::create(host, vmm, &flags)?;
    ensure!(!guest.stages.is_empty(), "its create told no stages");
    for (title, took) in &guest.stages {
        host.note(format!("{image} on {}: {title}", vmm.name()), *took);
    }
    let start = Instant::now();
    host.banger(&["vm", "ssh", &guest.name, "--", "true"])?
        .ok()?;
    host.note(
        format!("{image} on {}: first ssh", vmm.name()),
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
    host.kill_services("bangerd.service bangerd-root.service")?;
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
