//! Verbs beyond start, stop and delete, on real guests: restart, kill, set, prune, and several VMs at once.

use banger_e2e::{Banger, Beyond, SMALL, Vm};

const ONE_VCPU: &[&str] = &["--vcpu", "1"];

fn small(banger: &Banger) -> Vm {
    banger.vm(&[SMALL, ONE_VCPU].concat())
}

fn boot_id(vm: &Vm) -> String {
    vm.sh("cat /proc/sys/kernel/random/boot_id")
}

#[test]
fn a_restart_boots_again_on_the_same_disks() {
    let banger = Banger::from_env();
    let vm = small(&banger);
    vm.sh("echo in-root > /kept; echo at-home > /root/kept; echo gone > /tmp/gone");
    let before = boot_id(&vm);
    banger.ok(&["vm", "restart", "--wait", "reachable", &vm.name]);
    assert_ne!(boot_id(&vm), before);
    assert_eq!(vm.sh("cat /kept /root/kept"), "in-root\nat-home");
    assert_eq!(vm.exec(&["cat", "/tmp/gone"]).code, 1);
    // One that does not run is started.
    banger.ok(&["vm", "stop", &vm.name]);
    banger.ok(&["vm", "restart", "--wait", "reachable", &vm.name]);
    assert_eq!(vm.sh("cat /root/kept"), "at-home");
}

#[test]
fn a_killed_vm_is_stopped_and_starts_again() {
    let banger = Banger::from_env();
    let vm = small(&banger);
    for signal in [&[][..], &["--signal", "TERM"], &["--signal", "SIGKILL"]] {
        vm.sh("date >> /root/synced; sync");
        let lines = vm.sh("cat /root/synced");
        let kill = [&["vm", "kill", &vm.name], signal].concat();
        banger.ok(&kill);
        let shown = vm.show();
        assert_eq!(shown["phase"], "stopped", "{signal:?}");
        for key in ["last_error", "vmm_pid"] {
            assert_eq!(shown[key], serde_json::Value::Null, "{signal:?}");
        }
        let again = banger.run(&kill);
        again.assert_failed("a second kill", 5, &["[vm_not_running]", &vm.name]);
        banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
        assert_eq!(vm.sh("cat /root/synced"), lines, "{signal:?}");
    }
}

#[test]
fn other_sizes_are_seen_in_the_guest_and_what_was_there_is_kept() {
    let banger = Banger::from_env();
    let vm = banger.vm(&[SMALL, ONE_VCPU, &["--disk-size", "2G"]].concat());
    let number = |line: &str| vm.sh(line).parse::<u64>().unwrap();
    let memory_kib = "awk '/^MemTotal/ { print $2 }' /proc/meminfo";
    let disk_kib = "df -k /root | awk 'NR == 2 { print $2 }'";
    vm.sh("head -c 5000000 /dev/urandom > /root/data; sync");
    let sum = vm.sh("sha256sum /root/data");
    let before = (number("nproc"), number(memory_kib), number(disk_kib));
    assert!(before.0 == 1 && before.1 < 256 << 10 && before.2 < 2 << 20);
    let unchanged = vm.show();

    let larger = [
        "vm",
        "set",
        &vm.name,
        "--memory",
        "384M",
        "--vcpu",
        "2",
        "--disk-size",
        "5G",
    ];
    let running = banger.run(&larger);
    running.assert_failed("set while it runs", 5, &["[vm_running]", "banger vm stop"]);
    assert_eq!(vm.show(), unchanged);
    banger.ok(&["vm", "stop", &vm.name]);
    let shrink = banger.run(&["vm", "set", &vm.name, "--disk-size", "1G"]);
    shrink.assert_failed("a shrink", 2, &["[invalid_argument]", "only grows"]);
    let many = banger.run(&["vm", "set", &vm.name, "--vcpu", "4000"]);
    many.assert_failed("more than there are", 2, &["[invalid_argument]"]);
    assert_eq!(vm.show()["disk_size"], unchanged["disk_size"]);
    banger.ok(&larger);
    banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
    let after = (number("nproc"), number(memory_kib), number(disk_kib));
    assert_eq!(after.0, 2);
    assert!(after.1 > before.1 + (100 << 10), "{before:?} {after:?}");
    assert!(after.2 > 9 << 19, "{before:?} {after:?}");
    assert_eq!(vm.sh("sha256sum /root/data"), sum);
    let errors = vm.sh("dmesg | grep -ci 'ext4-fs error' || true");
    assert_eq!(errors, "0");
}

#[test]
fn nat_is_switched_while_the_guest_runs() {
    let banger = Banger::from_env();
    let beyond = Beyond::new();
    let vm = small(&banger);
    let before = boot_id(&vm);
    let answers = || {
        let ping = ["ping", "-c", "1", "-W", "3", beyond.address()];
        vm.exec(&ping).code == 0
    };
    assert!(!answers(), "NAT is off at first");
    for (flag, goes) in [("--nat", true), ("--no-nat", false), ("--nat", true)] {
        banger.ok(&["vm", "set", &vm.name, flag]);
        assert_eq!(vm.show()["nat"], goes);
        assert_eq!(answers(), goes, "{flag}");
    }
    assert_eq!(boot_id(&vm), before, "it was not restarted");
    banger.ok(&["vm", "restart", "--wait", "reachable", &vm.name]);
    assert!(answers(), "it stays");
}

#[test]
fn several_at_once_are_each_told_and_one_that_fails_fails_the_command() {
    let banger = Banger::from_env();
    let (one, two) = (small(&banger), small(&banger));
    let id = one.show()["id"].as_str().unwrap().to_owned();
    let base = |verb: &'static str| vec!["vm", verb, &id[..6], "no-such-vm", &two.name];
    let phases = || (one.phase(), two.phase());
    let down = || ("stopped".to_owned(), "stopped".to_owned());
    let up = || ("running".to_owned(), "running".to_owned());
    for (verb, flags, done, then) in [
        ("restart", &["--wait", "reachable"][..], "restarted", up()),
        ("stop", &[], "stopped", down()),
        ("set", &["--memory", "320M"], "changed", down()),
        ("start", &["--wait", "reachable"], "started", up()),
        ("kill", &[], "killed", down()),
    ] {
        let finished = banger.run(&[base(verb), flags.to_vec()].concat());
        assert_eq!(finished.code, 4, "{verb}: {}", finished.stderr);
        for line in [
            format!("{} {done}", &id[..6]),
            format!("{} {done}", two.name),
            "no-such-vm: there is no VM `no-such-vm` [vm_not_found]".to_owned(),
        ] {
            let is_told = finished.stdout.lines().any(|told| told == line);
            assert!(is_told, "{verb}: `{line}` in {}", finished.stdout);
        }
        assert_eq!(phases(), then, "{verb}");
    }
    assert_eq!(two.show()["memory_mib"], 320);
    let finished = banger.run(&[base("delete"), vec!["-o", "json"]].concat());
    assert_eq!(finished.code, 4, "{}", finished.stderr);
    let told: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let told: Vec<_> = told.as_array().unwrap().iter().map(|o| &o["ok"]).collect();
    assert_eq!(told, [true, false, true]);
    assert_eq!(banger.json(&["vm", "list"])["vms"], serde_json::json!([]));
}

#[test]
fn a_disk_that_is_gone_is_told_and_not_replaced_by_an_empty_one() {
    let banger = Banger::from_env();
    let vm = small(&banger);
    vm.sh("echo mine >/root/work && sync");
    banger.ok(&["vm", "stop", &vm.name]);
    let show = banger.json(&["vm", "show", &vm.name]);
    for which in ["work_disk", "overlay"] {
        let disk = std::path::Path::new(show["paths"][which].as_str().expect("a path"));
        let aside = disk.with_extension("aside");
        std::fs::rename(disk, &aside).expect("a disk");
        let start = banger.run(&["vm", "start", &vm.name]);
        start.assert_failed(
            which,
            1,
            &["[disk_lost]", "is gone", "vm show", "vm delete"],
        );
        assert!(!disk.exists(), "{which}: nothing takes its place");
        std::fs::rename(&aside, disk).expect("a disk");
    }
    banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
    assert_eq!(vm.sh("cat /root/work"), "mine");
}

#[test]
fn prune_takes_what_does_not_run_and_asks_before() {
    let banger = Banger::from_env();
    let runs = small(&banger);
    let stopped = banger.vm(&["--no-start", "--image", "debian-minimal"]);
    let refused = banger.run(&["vm", "prune"]);
    refused.assert_failed("without a terminal", 2, &["terminal", "-f"]);
    assert_eq!(stopped.phase(), "stopped");
    let said = banger.ok(&["vm", "prune", "-f"]);
    assert_eq!(said.trim(), format!("{} deleted", stopped.name));
    let gone = banger.run(&["vm", "show", &stopped.name]);
    assert_eq!(gone.code, 4, "{}", gone.stderr);
    assert_eq!(runs.sh("echo here"), "here");
    let nothing = banger.ok(&["vm", "prune", "-f"]);
    assert!(nothing.contains("no VM"), "{nothing}");
}
