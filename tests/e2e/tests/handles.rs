//! What is known of processes and taps stands in one file of the helper's (ADR 15). Whatever happens to it, the truth
//! is what the OS shows: VMs go on, and nobody else's process is touched.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use banger_e2e::{Banger, SMALL, Vm, links, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A program of somebody else's; ended with the value.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        Self(Command::new("sleep").arg("10000").spawn().unwrap())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Its start time, in the kernel's ticks.
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
        fields[20].parse().unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn versions(banger: &Banger) -> Value {
    banger.json(&["daemon", "start"])["version"].clone()
}

/// The helper's file.
fn ledger(banger: &Banger) -> PathBuf {
    let socket = versions(banger)["helper"]["socket"]
        .as_str()
        .unwrap()
        .to_owned();
    Path::new(&socket).with_file_name("ledger.json")
}

fn kill(pid: &Value) {
    let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let proc = format!("/proc/{}/exe", pid.as_raw_nonzero());
    until("it is gone", PATIENCE, || fs::read_link(&proc).is_err());
}

/// The host answers the guest: its tap and the rules for it stand.
fn has_network(vm: &Vm, address: &Value) -> bool {
    let (net, _) = address.as_str().unwrap().rsplit_once('.').unwrap();
    let host = format!("{net}.1");
    vm.exec(&["ping", "-c", "1", "-W", "2", &host]).code == 0
}

#[test]
fn whatever_happens_to_the_file_the_vm_goes_on_and_no_strangers_process_is_touched() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let shown = vm.show();
    let mut stranger = Stranger::new();
    let path = ledger(&banger);
    assert!(has_network(&vm, &shown["address"]));
    let entry = |text: &str, pid: u64, ticks: Option<u64>| {
        let mut ledger: Value = serde_json::from_str(text).unwrap();
        let vmm = &mut ledger["vmms"][shown["id"].as_str().unwrap()]["vmm"];
        assert!(vmm.is_object(), "{text}");
        vmm["pid"] = pid.into();
        if let Some(ticks) = ticks {
            vmm["start_ticks"] = ticks.into();
        }
        ledger.to_string()
    };
    for damage in ["missing", "corrupt", "stale", "foreign"] {
        for with_daemon in [false, true] {
            let text = fs::read_to_string(&path).unwrap();
            let pids = versions(&banger);
            if with_daemon {
                kill(&pids["daemon"]["pid"]);
            }
            kill(&pids["helper"]["pid"]);
            let stranger = &stranger;
            match damage {
                "missing" => fs::remove_file(&path).unwrap(),
                "corrupt" => fs::write(&path, &text[..text.len() / 2]).unwrap(),
                // The number is another process's by now.
                "stale" => fs::write(&path, entry(&text, stranger.0.id().into(), None)).unwrap(),
                _ => {
                    let foreign = entry(&text, stranger.0.id().into(), Some(stranger.ticks()));
                    fs::write(&path, foreign).unwrap();
                }
            }
            let what = format!("{damage}, daemon killed: {with_daemon}");
            versions(&banger);
            assert_eq!(vm.sh("echo here"), "here", "{what}");
            let now = vm.show();
            assert_eq!(
                (&now["phase"], &now["vmm_pid"]),
                (&shown["phase"], &shown["vmm_pid"]),
                "{what}"
            );
            until(
                &format!("{what}: the network is as it was"),
                PATIENCE,
                || has_network(&vm, &shown["address"]),
            );
            // And is again in the file.
            until(&format!("{what}: it is noted"), PATIENCE, || {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let ledger: Value = serde_json::from_str(&text).unwrap_or_default();
                let id = shown["id"].as_str().unwrap();
                ledger["vmms"][id]["vmm"]["pid"] == shown["vmm_pid"]
                    && ledger["taps"][id]["address"] == shown["address"]
            });
        }
    }
    // What acts on processes acts on the VM's own.
    banger.ok(&["vm", "kill", &vm.name]);
    banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
    banger.ok(&["vm", "stop", &vm.name]);
    banger.ok(&["vm", "delete", &vm.name]);
    assert!(stranger.lives());
}

/// Everything in the database, as bytes: nothing in it is true only now.
#[test]
fn the_database_holds_neither_process_ids_nor_names_of_devices() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let shown = vm.show();
    let id = shown["id"].as_str().unwrap();
    let mut taps = links();
    taps.retain(|name| name.contains(&id[..8]));
    assert_eq!(taps.len(), 1, "the VM's tap");
    let mut bytes = vec![];
    for name in ["banger.db", "banger.db-wal"] {
        bytes.extend(fs::read(banger.state_dir().join(name)).unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(id), "the VM is in it");
    for fact in [taps[0].as_str(), "vmm_pid", "start_ticks"] {
        assert!(!text.contains(fact), "{fact} is in the database");
    }
}

#[test]
fn a_lost_database_costs_no_disk() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    vm.sh("echo precious > /root/work; sync");
    banger.ok(&["vm", "stop", &vm.name]);
    let id = vm.show()["id"].as_str().unwrap().to_owned();
    let (vms, lost) = (
        banger.state_dir().join("vms"),
        banger.state_dir().join("lost"),
    );
    banger.ok(&["daemon", "stop"]);
    let aside = tempfile::tempdir_in(banger.state_dir()).unwrap();
    for name in ["banger.db", "banger.db-wal", "banger.db-shm"] {
        let _ = fs::rename(banger.state_dir().join(name), aside.path().join(name));
    }
    let status = banger.json(&["daemon", "start"]);
    let told = status["problems"].to_string();
    assert!(told.contains(&id) && told.contains("lost"), "{status}");
    assert_eq!(banger.json(&["vm", "list"])["vms"], serde_json::json!([]));
    assert!(lost.join(&id).join("work.ext4").exists());
    let doctor = banger.run(&["doctor"]);
    assert!(doctor.stdout.contains(&id), "{}", doctor.stdout);
    // Everything put back is as if nothing had been.
    banger.ok(&["daemon", "stop"]);
    for name in ["banger.db", "banger.db-wal", "banger.db-shm"] {
        let _ = fs::remove_file(banger.state_dir().join(name));
        let _ = fs::rename(aside.path().join(name), banger.state_dir().join(name));
    }
    fs::rename(lost.join(&id), vms.join(&id)).unwrap();
    fs::remove_dir(&lost).unwrap();
    banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
    assert_eq!(vm.sh("cat /root/work"), "precious");
}
