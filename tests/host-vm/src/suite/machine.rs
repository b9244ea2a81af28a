//! The host itself: what the other tests stand on, and what is made offline in it.

use anyhow::{Result, ensure};

use super::{Length, Test};
use crate::host::Host;

/// What a host with banger is.
pub(super) fn first() -> Vec<Test> {
    vec![
        Test::new(
            "host/has-systemd-kvm-and-device-mapper",
            Length::Smoke,
            host_is_one,
        ),
        Test::new("host/setup-says-everything-is-there", Length::Smoke, setup),
        Test::new("host/doctor-and-status-find-nothing", Length::Smoke, doctor),
    ]
}

fn host_is_one(host: &Host) -> Result<()> {
    let state =
        host.root("systemctl is-system-running --wait || systemctl --failed --no-legend")?;
    ensure!(state == "running", "systemd says {state}");
    let targets = host.root("dmsetup targets")?;
    ensure!(
        targets.contains("snapshot"),
        "device-mapper has only {targets}"
    );
    let kvm = host.root(
        "grep -c svm /proc/cpuinfo; test -c /dev/kvm && cat /sys/module/kvm_amd/parameters/nested",
    )?;
    ensure!(kvm == "2\n1", "KVM: {kvm}");
    ensure!(host.dev("sudo -n id -u")? == "0", "dev has no sudo");
    let world =
        host.root("! timeout 5 bash -c '</dev/tcp/10.0.2.2/22' 2>/dev/null && echo unreachable")?;
    ensure!(
        world == "unreachable",
        "the host reaches beyond its own machine"
    );
    Ok(())
}

fn setup(host: &Host) -> Result<()> {
    // Programs are brought, not built: this host has no Rust.
    let said = host.dev("mkdir -p ~/bin && ln -sf /bin/false ~/bin/cargo && PATH=~/bin:$PATH ~/checkout/scripts/setup")?;
    ensure!(
        said.ends_with("setup: everything is there"),
        "setup says {said}"
    );
    Ok(())
}

fn doctor(host: &Host) -> Result<()> {
    let doctor = host.json(&["doctor"])?;
    let checks = doctor["checks"].as_array().cloned().unwrap_or_default();
    ensure!(!checks.is_empty(), "doctor checks nothing: {doctor}");
    let bad: Vec<_> = checks
        .iter()
        .filter(|check| check["result"] == "fail")
        .collect();
    ensure!(bad.is_empty(), "{bad:#?}");
    let vmm = checks.iter().find(|check| check["name"] == "vmm");
    ensure!(
        vmm.is_some_and(|check| check["result"] == "pass"),
        "KVM is not used: {vmm:?}"
    );
    host.banger(&["system", "status"])?.ok().map(drop)
}
