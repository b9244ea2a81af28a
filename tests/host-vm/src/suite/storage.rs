//! Root disks that are device-mapper snapshots.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::faults::base_digest;
use super::guest::Guest;
use super::{Length, Test, Vmm, leaks};
use crate::host::{Host, User};

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    let mut tests = vec![Test::new(
        "storage/the-helpers-own-tests-of-devices",
        Length::Whole,
        device_tests,
    )];
    tests.extend(Test::each(
        "storage/two-vms-share-a-base-and-leave-nothing",
        Length::Smoke,
        shared,
    ));
    tests
}

/// A guest's device: what `/dev/dm-…` is called.
fn device(host: &Host, guest: &Guest<'_>) -> Result<String> {
    let uuid = format!("BANGER-{}", guest.field("id")?);
    let found = host.root(&format!("grep -lx {uuid} /sys/block/dm-*/dm/uuid"))?;
    let name = found.split('/').nth(3);
    name.map(str::to_owned)
        .with_context(|| format!("no device of {uuid}: {found}"))
}

fn loops(host: &Host, what: &str) -> Result<Vec<String>> {
    let all = host.root("losetup -l -n -O RO,AUTOCLEAR,BACK-FILE")?;
    let mine = all.lines().filter(|line| line.contains(what));
    Ok(mine
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect())
}

fn shared(host: &Host, vmm: Vmm) -> Result<()> {
    let before = base_digest(host)?;
    let one = Guest::minimal(host, vmm, &[])?;
    let other = Guest::minimal(host, vmm, &[])?;
    let kind = one.field("storage")?;
    ensure!(kind == "dm_snapshot", "auto has chosen {kind}");
    let addresses = [one.field("address")?, other.field("address")?];
    ensure!(addresses[0] != addresses[1], "both are {}", addresses[0]);
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
    ensure!(device(host, &one)? != device(host, &other)?, "one device");
    let bases = loops(host, "/images/debian-minimal/")?;
    ensure!(
        bases.len() == 1 && bases[0].starts_with("1 1 "),
        "{bases:?}"
    );
    let stores = loops(host, "/root.cow")?;
    ensure!(
        stores.len() == 2 && stores.iter().all(|store| store.starts_with("0 1 ")),
        "{stores:?}"
    );
    one.sh("dd if=/dev/urandom of=/big bs=1M count=8 2>/dev/null; sync")?;
    let fill = &one.show()?["root_fill"];
    let used = fill["used_bytes"].as_u64();
    ensure!(used.is_some_and(|used| used > 8 << 20), "{fill}");
    let folder = format!("/var/lib/banger/vms/{}", one.field("id")?);
    let node = host.root(&format!("stat -c '%F %a' {folder}/run/root"))?;
    ensure!(node == "block special file 600", "{node}");
    let sum = one.sh("sha256sum /big")?;
    one.vm("stop")?;
    ensure!(
        loops(host, "/root.cow")?.len() == 1 && loops(host, "/images/")?.len() == 1,
        "the other's were taken down, or one's were not"
    );
    one.vm("start")?;
    ensure!(one.sh("sha256sum /big")? == sum, "/ was not kept");
    drop(one);
    ensure!(
        other.sh("cat /mine")? == other.name,
        "the other's end was felt"
    );
    drop(other);
    leaks::nothing_runs(host)?;
    let after = base_digest(host)?;
    ensure!(before == after, "the base was written: {before} {after}");
    Ok(())
}

/// They make devices by themselves, as root, and need no guest; or tiny ones.
fn device_tests(host: &Host) -> Result<()> {
    let programs = "BANGER_TEST_PROGRAMS=/usr/lib/banger BANGER_FUZZ_SECONDS=20";
    for (name, words) in [
        ("rootops", "snapshot_tests loop_device root_disk"),
        ("snapshot", ""),
        ("hostile", ""),
    ] {
        let line = format!(
            "cd /var/tmp && TMPDIR=/var/tmp {programs} ~dev/checkout/tests/{name} --nocapture --test-threads=1 {words}"
        );
        let done = host.run_within(User::Root, &line, Duration::from_secs(600))?;
        ensure!(done.code == 0, "{name}: {}", done.describe());
        let said = done.ok()?;
        ensure!(!said.contains("SKIPPED"), "{name}: {said}");
        ensure!(!said.contains(" 0 passed"), "{name}: {said}");
    }
    Ok(())
}
