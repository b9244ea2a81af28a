//! Nothing of a VM is left when it is gone, and nothing of banger when it is uninstalled.

use anyhow::{Result, ensure};

use super::{Length, Test};
use crate::host::Host;

/// The tests of this file; they come last.
pub(super) fn tests() -> Vec<Test> {
    vec![
        Test::new("leaks/no-vm-leaves-anything", Length::Smoke, no_vm_no_trace),
        Test::new(
            "leaks/uninstall-keeps-data-and-reinstall-finds-vms",
            Length::Smoke,
            uninstall,
        ),
    ]
}

/// Each finds something that exists for a running VM alone; all must find nothing.
const RUNNING: &[(&str, &str)] = &[
    ("VMMs", "pgrep -a 'qemu-system|firecracker|banger-vhost'"),
    ("taps", "ip -br link | grep -E '^bgr'"),
    (
        "device-mapper devices",
        "dmsetup ls | grep -v '^No devices found'",
    ),
    ("loop devices", "losetup -l -n -O NAME,BACK-FILE"),
    (
        "mounts",
        "grep -E ' /(var/lib|run)/banger[^ ]*/' /proc/mounts",
    ),
    (
        "units",
        "systemctl list-units --all --plain --no-legend 'banger-vm-*'",
    ),
    (
        "run folders",
        "find /var/lib/banger/vms -mindepth 2 -maxdepth 2 -name run",
    ),
    (
        "VMMs' sockets",
        "find /run/banger* /var/lib/banger/vms -type s | grep -E '/(v|api|vhost)$'",
    ),
];

/// No VM runs, and nothing is there that a running VM has.
pub(super) fn nothing_runs(host: &Host) -> Result<()> {
    let mut found = String::new();
    for (what, line) in RUNNING {
        let left = host.root(&format!("{{ {line}; }} 2>/dev/null || true"))?;
        if !left.is_empty() {
            found += &format!("{what}:\n{left}\n");
        }
    }
    ensure!(found.is_empty(), "left behind: {found}");
    Ok(())
}

fn no_vm_no_trace(host: &Host) -> Result<()> {
    let vms = host.json(&["vm", "list"])?;
    ensure!(
        vms["vms"].as_array().is_some_and(Vec::is_empty),
        "tests left VMs: {vms}"
    );
    nothing_runs(host)?;
    let folders =
        host.root("ls -A /var/lib/banger/vms; find /var/lib/banger -maxdepth 3 -name '.tmp*'")?;
    ensure!(folders.is_empty(), "folders left behind: {folders}");
    Ok(())
}

fn uninstall(host: &Host) -> Result<()> {
    let name = format!("kept-{}", std::process::id());
    host.banger(&[
        "vm",
        "create",
        "--no-start",
        "--image",
        "debian-minimal",
        "--name",
        &name,
    ])?
    .ok()?;
    host.dev("sudo banger system uninstall")?;
    let left = host.root(
        "ls -d /usr/bin/banger /usr/lib/banger /etc/banger /run/banger /run/banger-root /etc/systemd/system/banger* 2>/dev/null || true",
    )?;
    ensure!(left.is_empty(), "uninstalled, and still there: {left}");
    let said = host.root("~dev/checkout/scripts/leak-check")?;
    ensure!(said == "leak check: nothing left behind", "{said}");
    host.install()?;
    let found = host.json(&["vm", "show", &name])?;
    ensure!(found["phase"] == "stopped", "{found}");
    host.banger(&["vm", "delete", &name])?.ok().map(drop)
}
