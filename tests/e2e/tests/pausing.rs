//! VMs that stand still: because the host's disk is nearly full, or because somebody stopped their VMM.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use banger_e2e::{Banger, Elsewhere, Finished, SMALL, Vm, until};
use banger_testkit::SmallDisk;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// What is told at once must not take longer, also on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A banger whose VMs lie on a small disk of its own, in raw files. What is deleted last are its VMs.
struct Small {
    elsewhere: Elsewhere,
    disk: SmallDisk,
}

impl Small {
    /// Or why there cannot be one here.
    fn new() -> Result<Self, String> {
        let disk = SmallDisk::new(1024)?;
        let elsewhere = Elsewhere::with_state(disk.path());
        let config = "storage = \"copy\"\ndisk_reserve = \"128M\"\nbridge_name = \"small0\"\n\
                      bridge_ip = \"172.31.7.1\"\ncidr = \"172.31.7.0/24\"\n";
        fs::write(elsewhere.path("config/banger/config.toml"), config).unwrap();
        fs::create_dir(elsewhere.state_dir()).unwrap();
        // Copies: a VMM is given names of them beside its disks.
        fs::create_dir(elsewhere.state_dir().join("images")).unwrap();
        for artefacts in ["images/debian-minimal", "kernels", "initrd"] {
            let theirs = elsewhere.banger().state_dir().join(artefacts);
            let mut copy = Command::new("cp");
            copy.args(["-a", "--sparse=always"]).arg(theirs);
            copy.arg(elsewhere.state_dir().join(artefacts));
            assert!(copy.status().unwrap().success());
        }
        Ok(Self { elsewhere, disk })
    }

    fn run(&self, args: &[&str]) -> Finished {
        self.elsewhere.run(args)
    }

    fn ok(&self, args: &[&str]) -> String {
        let finished = self.run(args);
        assert_eq!(finished.code, 0, "banger {args:?}\n{}", finished.stderr);
        finished.stdout
    }

    fn sh(&self, vm: &str, line: &str) -> String {
        self.ok(&["vm", "exec", vm, "--", "sh", "-c", line])
            .trim()
            .to_owned()
    }

    fn show(&self, vm: &str) -> Value {
        serde_json::from_str(&self.ok(&["vm", "show", vm, "-o", "json"])).unwrap()
    }

    fn create(&self, vm: &str) {
        self.ok(&[&["vm", "create", "--name", vm], SMALL].concat());
    }

    /// Leaves that much of the disk, at one stroke; the file that has the rest.
    fn leave(&self, mib: u64) -> PathBuf {
        let filler = self.disk.path().join("filler");
        let file = File::create(&filler).unwrap();
        let space = rustix::fs::fstatvfs(&file).unwrap();
        let rest = space.f_bavail * space.f_frsize - (mib << 20);
        fallocate(&file, FallocateFlags::empty(), 0, rest).unwrap();
        filler
    }

    fn until_phase(&self, vm: &str, phase: &str) {
        let what = format!("{vm} is {phase}");
        until(&what, PATIENCE, || self.show(vm)["phase"] == phase);
    }

    /// The disks of a VM that does not run are clean, without a repair.
    fn assert_clean(&self, vm: &str) {
        let id = self.show(vm)["id"].as_str().unwrap().to_owned();
        let folder = self.elsewhere.state_dir().join("vms").join(id);
        for disk in ["root.ext4", "work.ext4"] {
            let mut fsck = Command::new("/sbin/e2fsck");
            let checked = fsck.arg("-fn").arg(folder.join(disk)).output().unwrap();
            let said = String::from_utf8_lossy(&checked.stdout);
            assert!(checked.status.success(), "{disk}: {said}");
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let list = self.run(&["vm", "list", "-o", "json"]);
        let list: Value = serde_json::from_str(&list.stdout).unwrap_or_default();
        let names = list["vms"].as_array().into_iter().flatten();
        let names: Vec<&str> = names.filter_map(|vm| vm["name"].as_str()).collect();
        let _ = self.run(&[vec!["vm", "delete"], names].concat());
    }
}

/// What needs the guest is told at once that it stands still, and why.
fn assert_told_at_once(mut run: impl FnMut(&[&str]) -> Finished, vm: &str, why: &str) {
    for (args, code) in [
        (&["vm", "exec", vm, "--", "true"][..], 125),
        (&["vm", "ssh", vm, "--", "true"], 125),
    ] {
        let start = Instant::now();
        let finished = run(args);
        finished.assert_failed(&format!("{args:?}"), code, &["[vm_paused]", vm, why]);
        assert!(start.elapsed() < AT_ONCE, "{args:?}: {:?}", start.elapsed());
    }
    let list = run(&["vm", "list"]);
    let row = list
        .stdout
        .lines()
        .find(|line| line.trim_start().starts_with(vm));
    assert!(row.is_some_and(|row| row.contains("paused")), "{list:?}");
    assert!(list.stderr.contains(why), "{list:?}");
}

#[test]
fn vms_stand_still_while_the_disk_is_nearly_full_and_go_on_unharmed() {
    let small = match Small::new() {
        Err(why) => {
            println!("SKIPPED (loop mount): {why}");
            return;
        }
        Ok(small) => small,
    };
    let why = "the host's disk is nearly full";
    for vm in ["writer", "other"] {
        small.create(vm);
    }
    // A filler to take away later, and a guest that would fill what is left and more.
    let filler = small.leave(250);
    let line = "( i=0; while [ $i -lt 200 ]; do dd if=/dev/urandom of=/root/$i bs=1M count=1 2>>/root/errors \
                && sha256sum /root/$i >> /root/sums; i=$((i + 1)); done; echo whole > /root/done; sync ) \
                </dev/null >/dev/null 2>&1 &";
    small.sh("writer", line);
    for vm in ["writer", "other"] {
        small.until_phase(vm, "paused");
        let shown = small.show(vm);
        let reason = shown["pause_reason"].as_str().unwrap_or_default();
        assert!(reason.contains(why), "{shown}");
        assert_eq!(shown["last_error"], Value::Null);
        assert_told_at_once(|args| small.run(args), vm, why);
    }
    let space = rustix::fs::statvfs(small.disk.path()).unwrap();
    assert!(space.f_bavail * space.f_frsize > 32 << 20, "it was in time");
    small
        .run(&["vm", "start", "other"])
        .assert_failed("start", 5, &["[vm_paused]", why]);
    let third = [&["vm", "create", "--name", "third"], SMALL].concat();
    small
        .run(&third)
        .assert_failed("create", 1, &["[disk_full]"]);
    small
        .run(&["vm", "restart", "other"])
        .assert_failed("restart", 1, &["[disk_full]"]);
    assert_eq!(
        small.show("other")["phase"],
        "paused",
        "it was not stopped for that"
    );
    // A daemon that finds them so leaves them so.
    small.ok(&["daemon", "stop"]);
    small.until_phase("writer", "paused");

    fs::remove_file(filler).unwrap();
    for vm in ["writer", "other"] {
        small.until_phase(vm, "running");
        assert_eq!(small.show(vm)["pause_reason"], Value::Null);
    }
    until("the writer is done", Duration::from_secs(180), || {
        small.sh("writer", "cat /root/done 2>/dev/null || true") == "whole"
    });
    let sums = "sha256sum -c /root/sums > /dev/null && wc -l < /root/sums";
    assert_eq!(
        small.sh("writer", sums),
        "200",
        "what was written is as it was"
    );
    let errors = "dmesg | grep -ciE 'i/o error|ext4-fs error|remounting' || true";
    for vm in ["writer", "other"] {
        assert_eq!(small.sh(vm, errors), "0", "{vm}");
        small.ok(&["vm", "stop", vm]);
        small.assert_clean(vm);
    }
}

#[test]
fn a_paused_vm_is_stopped_cleanly_killed_and_deleted() {
    let small = match Small::new() {
        Err(why) => {
            println!("SKIPPED (loop mount): {why}");
            return;
        }
        Ok(small) => small,
    };
    for vm in ["stops", "dies", "goes"] {
        small.create(vm);
        small.sh(vm, "echo precious > /root/file; sync");
    }
    let filler = small.leave(100);
    for vm in ["stops", "dies", "goes"] {
        small.until_phase(vm, "paused");
    }
    // Without a sync: a clean shutdown brings it to the disk.
    let stopping = Instant::now();
    small.ok(&["vm", "stop", "--grace", "50", "stops"]);
    assert!(
        stopping.elapsed() < Duration::from_secs(40),
        "not by its deadline"
    );
    small.ok(&["vm", "kill", "dies"]);
    small.ok(&["vm", "delete", "goes"]);
    for vm in ["stops", "dies"] {
        assert_eq!(small.show(vm)["phase"], "stopped", "{vm}");
        small
            .run(&["vm", "start", vm])
            .assert_failed("start", 1, &["[disk_full]"]);
        assert_eq!(small.show(vm)["phase"], "stopped", "{vm}");
    }
    small.assert_clean("stops");
    fs::remove_file(filler).unwrap();
    for vm in ["stops", "dies"] {
        small.ok(&["vm", "start", "--wait", "reachable", vm]);
        assert_eq!(small.sh(vm, "cat /root/file"), "precious");
    }
}

/// Stops its VMM, as an administrator might, and gives the process.
fn freeze(vm: &Vm) -> Pid {
    let pid = vm.show()["vmm_pid"].as_u64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    until("it is shown as paused", PATIENCE, || vm.phase() == "paused");
    pid
}

#[test]
fn one_that_somebody_else_stopped_is_told_goes_on_when_told_and_can_be_ended() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    freeze(&vm);
    let why = "stopped by a signal from outside banger";
    assert_told_at_once(|args| banger.run(args), &vm.name, why);
    let started = ["vm", "start", "--wait", "reachable", &vm.name];
    banger.ok(&started);
    assert_eq!(vm.sh("echo on"), "on");
    // Every way to end one that stands still.
    for end in [
        &["vm", "stop", &vm.name][..],
        &["vm", "kill", &vm.name],
        &["vm", "kill", "--signal", "TERM", &vm.name],
        &["vm", "restart", "--wait", "reachable", &vm.name],
        &["vm", "delete", &vm.name],
    ] {
        let pid = freeze(&vm);
        let start = Instant::now();
        banger.ok(end);
        assert!(
            start.elapsed() < Duration::from_secs(40),
            "{end:?}: {:?}",
            start.elapsed()
        );
        // It has ended; whose child it was may need a moment to notice.
        until("its VMM is gone", PATIENCE, || {
            test_kill_process(pid).is_err()
        });
        match end[1] {
            "restart" => assert_eq!(vm.phase(), "running"),
            "delete" => assert_eq!(banger.run(&["vm", "show", &vm.name]).code, 4),
            _ => {
                assert_eq!(vm.phase(), "stopped");
                banger.ok(&started);
            }
        }
    }
}
