//! What dies, and what lives on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use banger_e2e::{Banger, Client, SMALL, until};

fn kill_9(pid: u64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let proc = format!("/proc/{}/exe", pid.as_raw_nonzero());
    until("the process is gone", Duration::from_secs(20), || {
        std::fs::read_link(&proc).is_err()
    });
}

#[test]
fn open_streams_and_vms_survive_the_death_of_daemon_and_helper() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let mut open = Client::start(&banger, &["vm", "exec", "-i", &vm.name, "--", "cat"]);
    let mut echo = |text: &str| {
        open.say(text.as_bytes());
        assert_eq!(open.hear_bytes(text.len()), text.as_bytes());
    };
    echo("before\n");
    let pid = vm.show()["vmm_pid"].as_u64().unwrap();
    for victims in [&["daemon"][..], &["helper"], &["daemon", "helper"]] {
        let version = banger.json(&["daemon", "start"])["version"].clone();
        for victim in victims {
            kill_9(version[*victim]["pid"].as_u64().unwrap());
        }
        echo("while they are dead\n");
        assert_eq!(vm.sh("echo adopted"), "adopted");
        assert_eq!(vm.show()["vmm_pid"].as_u64(), Some(pid));
        assert_eq!(vm.phase(), "running");
    }
    echo("after\n");
    assert_eq!(open.end().code, 0);
}

#[test]
fn a_killed_vmm_is_a_failure_and_starts_again() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    kill_9(vm.show()["vmm_pid"].as_u64().unwrap());
    until("the death is noticed", Duration::from_secs(30), || {
        vm.phase() == "failed"
    });
    banger.ok(&["vm", "start", &vm.name]);
    assert_eq!(vm.sh("echo back"), "back");
}

#[test]
fn a_guest_that_reboots_while_the_helper_is_dead_boots_when_anything_is_asked() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let boot_id = ["cat", "/proc/sys/kernel/random/boot_id"];
    let before = vm.exec(&boot_id).stdout;
    let version = banger.json(&["daemon", "start"])["version"].clone();
    kill_9(version["helper"]["pid"].as_u64().unwrap());
    // The answer may not come any more.
    let _ = vm.exec(&["sh", "-c", "reboot"]);
    // `vm show` alone starts no helper, but where a VM waits for it.
    until("it runs again", Duration::from_secs(120), || {
        let booted = vm.phase() == "running" && vm.exec(&boot_id).stdout != before;
        booted && vm.exec(&["true"]).code == 0
    });
    assert_eq!(vm.show()["last_error"], serde_json::Value::Null);
    let helper = banger.json(&["daemon", "status"])["version"]["helper"].clone();
    assert_eq!(helper["wanted"], false, "{helper}");
}

#[test]
fn a_kernel_that_is_gone_is_told_and_put_back_it_boots_again() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    banger.ok(&["vm", "stop", &vm.name]);
    let kernel = vm.show()["kernel"].as_str().unwrap().to_owned();
    let folder = banger.state_dir().join("kernels").join(&kernel);
    let aside = banger.state_dir().join("kernel-aside");
    std::fs::rename(&folder, &aside).unwrap();
    let start = banger.run(&["vm", "start", &vm.name]);
    std::fs::rename(&aside, &folder).unwrap();
    start.assert_failed("start", 4, &["[kernel_not_found]", &kernel, "hint:"]);
    assert_eq!(vm.phase(), "failed");
    banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
    assert_eq!(vm.sh("echo back"), "back");
}

#[test]
fn eight_vms_at_once() {
    let banger = Banger::from_env();
    let mut creating = Vec::new();
    for number in 0..8 {
        let name = format!("eight-{number}");
        let args = [
            "vm",
            "create",
            "--name",
            &name,
            "--image",
            "debian-minimal",
            "--memory",
            "256",
        ];
        creating.push((name.clone(), banger.spawn(&args)));
    }
    let mut names = Vec::new();
    for (name, child) in creating {
        let ended = child.wait_with_output().unwrap();
        assert!(
            ended.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
        names.push(name);
    }
    for name in &names {
        assert_eq!(
            banger.ok(&["vm", "exec", name, "--", "hostname"]).trim(),
            name
        );
    }
    let mut delete = vec!["vm", "delete"];
    delete.extend(names.iter().map(String::as_str));
    banger.ok(&delete);
    assert_eq!(
        banger.json(&["vm", "list"])["vms"].as_array().map(Vec::len),
        Some(0)
    );
    let folders = std::fs::read_dir(banger.state_dir().join("vms"))
        .unwrap()
        .count();
    assert_eq!(folders, 0);
}
