//! The end of a guest with systemd: everything is unmounted, whoever is busy in it, and whoever began it. How long it
//! takes is measured by `scripts/bench.d/stop`.

use std::time::Duration;

use banger_e2e::{Banger, Vm, until};

const PATIENCE: Duration = Duration::from_secs(120);

/// Programs that keep `/root` busy and that no signal ends but SIGKILL: a session, and what an exec left behind.
fn keep_busy(banger: &Banger, vm: &Vm) {
    let stubborn = "trap '' TERM HUP INT; cd /root; exec 9>>/root/busy; while :; do date >&9; sleep 0.05; done";
    let session = [
        "vm",
        "session",
        "start",
        &vm.name,
        "--replace",
        "--name",
        "busy",
        "--cwd",
        "/root",
    ];
    vm.sh("rm -f /root/busy");
    banger.ok(&[&session[..], &["--", "sh", "-c", stubborn]].concat());
    vm.sh("cd /root && setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' >/dev/null 2>&1 </dev/null &");
    until("it writes", PATIENCE, || {
        vm.exec(&["test", "-s", "/root/busy"]).code == 0
    });
}

/// What the boot before left in the journal and on the console, and what this one found on the disks.
fn assert_clean(banger: &Banger, vm: &Vm, what: &str) {
    let journal = vm.sh("journalctl -b -1 --no-pager -o cat");
    let failed: Vec<&str> = journal
        .lines()
        .filter(|line| {
            line.contains("Failed unmounting")
                || line.contains("Failed to unmount")
                || line.contains("timed out. Killing")
        })
        .collect();
    assert!(failed.is_empty(), "{what}: {failed:?}");
    for sign in [
        "Unmounted root.mount",
        "Reached target umount.target",
        "Journal stopped",
    ] {
        assert!(
            journal.contains(sign),
            "{what}: `{sign}` is not in\n{journal}"
        );
    }
    let console = banger.ok(&["vm", "logs", &vm.name]);
    let farewells = console.matches("banger-farewell: poweroff").count();
    assert!(farewells > 0, "{what}: {console}");
    assert!(!console.contains("Failed to unmount"), "{what}: {console}");
    let recovered = vm.sh("journalctl -k -b --no-pager -o cat | grep -ciE 'recovery complete|orphan cleanup|ext4-fs error' || true");
    assert_eq!(recovered, "0", "{what}: a file system was not unmounted");
}

#[test]
fn a_stop_is_clean_though_somebody_is_busy_and_so_is_a_poweroff_from_inside() {
    let banger = Banger::from_env();
    let vm = banger.vm(&[]);
    vm.sh("mkdir -p /var/log/journal && systemctl restart systemd-journald && journalctl --flush");
    for (what, busy, inside) in [
        ("vm stop", false, false),
        ("vm stop, busy", true, false),
        ("poweroff", false, true),
        ("poweroff, busy", true, true),
    ] {
        if busy {
            keep_busy(&banger, &vm);
        }
        if inside {
            let _ = vm.exec(&["systemctl", "poweroff"]);
            until("the VM is stopped", PATIENCE, || vm.phase() == "stopped");
        } else {
            banger.ok(&["vm", "stop", &vm.name]);
        }
        let shown = vm.show();
        assert_eq!(shown["phase"], "stopped", "{what}");
        assert_eq!(shown["last_error"], serde_json::Value::Null, "{what}");
        banger.ok(&["vm", "start", &vm.name]);
        assert_clean(&banger, &vm, what);
    }
    if vm.exec(&["test", "-s", "/root/busy"]).code != 0 {
        panic!("what the busy one wrote is gone");
    }
}

#[test]
fn a_guest_that_does_not_shut_down_is_ended_by_force_in_time_and_that_is_said() {
    let banger = Banger::from_env();
    let vm = banger.vm(&[]);
    let stubborn = "trap '' TERM HUP INT; while :; do sleep 1; done";
    let forever = "-p TimeoutStopSec=infinity -p SendSIGKILL=no";
    vm.sh(&format!(
        "systemd-run --quiet --unit stubborn {forever} sh -c \"{stubborn}\""
    ));
    vm.sh("echo kept > /root/kept && sync");
    let stopped = banger.json(&["vm", "stop", "--grace", "3", &vm.name]);
    assert_eq!(stopped[0]["forced"], true, "{stopped}");
    assert_eq!(vm.phase(), "stopped");
    banger.ok(&["vm", "start", &vm.name]);
    assert_eq!(vm.sh("cat /root/kept"), "kept");
    let stopped = banger.json(&["vm", "stop", &vm.name]);
    assert_eq!(stopped[0]["forced"], false, "{stopped}");
}
