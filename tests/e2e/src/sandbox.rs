//! What every VM is, whatever its image: a shell, a name, an address, answers to names, the work disk, a clean end.

use std::time::Duration;

use serde_json::Value;

use crate::{Banger, Vm, until};

const PATIENCE: Duration = Duration::from_secs(120);

/// Checks all of it. Needs `sh`, `cat` and `echo` of the image, and `getent` or `nslookup` to ask for a name.
///
/// # Panics
/// When something of it is not so.
pub fn assert_sandbox(banger: &Banger, vm: &Vm) {
    let name = vm.name.as_str();
    assert_eq!(vm.sh("echo $((40 + 2)); exit 0"), "42");
    assert_eq!(vm.exec(&["sh", "-c", "exit 7"]).code, 7);
    assert_eq!(vm.sh("cat /proc/sys/kernel/hostname"), name);
    assert_eq!(vm.sh("cat /etc/hostname"), name);
    let shown = vm.show();
    let address = shown["address"].as_str().unwrap_or_default();
    let addresses = vm.sh("cat /proc/net/fib_trie");
    assert!(
        addresses
            .lines()
            .any(|line| line.ends_with(&format!("-- {address}"))),
        "{address} is not among\n{addresses}"
    );
    // Of the host's resolver, not of /etc/hosts.
    let asked = vm.sh(&format!(
        "getent -s dns hosts {name}.vm || nslookup {name}.vm"
    ));
    assert!(asked.contains(address), "{name}.vm is {address}: {asked}");
    let mounts = vm.sh("cat /proc/mounts");
    let work = mounts.lines().find(|line| line.contains(" /root "));
    assert!(
        work.is_some_and(|line| line.contains(" ext4 rw")),
        "{mounts}"
    );

    vm.sh("echo kept >/root/kept; echo kept >/kept");
    let ends = ends(banger, vm);
    let said = banger.ok(&["vm", "stop", name]);
    assert_stopped(vm, "after a stop");
    let console = banger.ok(&["vm", "logs", name]);
    assert_eq!(
        self::ends(banger, vm),
        ends + 1,
        "it was no clean end: {said}\n{console}"
    );
    banger.ok(&["vm", "start", name]);
    assert_eq!(vm.sh("cat /root/kept /kept"), "kept\nkept");
}

/// Has the guest power itself off, by the image's own program.
///
/// # Panics
/// When the VM is not stopped then.
pub fn assert_powers_off(vm: &Vm) {
    let _ = vm.exec(&["poweroff"]);
    until("the VM is stopped", PATIENCE, || vm.phase() == "stopped");
    assert_stopped(vm, "after a poweroff");
}

fn assert_stopped(vm: &Vm, what: &str) {
    let shown = vm.show();
    assert_eq!(shown["phase"], "stopped", "{what}");
    assert_eq!(shown["last_error"], Value::Null, "{what}");
}

/// How often the guest said on its console that it ends.
fn ends(banger: &Banger, vm: &Vm) -> usize {
    let console = banger.ok(&["vm", "logs", &vm.name]);
    let is_end = |line: &&str| {
        line.starts_with("banger-farewell: poweroff") || line.contains("reboot: Power down")
    };
    console.lines().filter(is_end).count()
}
