//! That the host is one: what the other tests stand on.

use anyhow::{Result, ensure};

use super::{Length, Test};
use crate::host::Host;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    vec![Test::new("host/has-systemd-kvm-and-device-mapper", Length::Smoke, host_is_one)]
}

fn host_is_one(host: &Host) -> Result<()> {
    let state = host.root("systemctl is-system-running --wait || systemctl --failed --no-legend")?;
    ensure!(state == "running", "systemd says {state}");
    let targets = host.root("dmsetup targets")?;
    ensure!(targets.contains("snapshot"), "device-mapper has only {targets}");
    let kvm = host.root("grep -c svm /proc/cpuinfo; test -c /dev/kvm && cat /sys/module/kvm_amd/parameters/nested")?;
    ensure!(kvm == "2\n1", "KVM: {kvm}");
    ensure!(host.dev("sudo -n id -u")? == "0", "dev has no sudo");
    let world = host.root("! timeout 5 bash -c '</dev/tcp/10.0.2.2/22' 2>/dev/null && echo unreachable")?;
    ensure!(world == "unreachable", "the host reaches beyond its own machine");
    Ok(())
}
