//! `auto_stop_stale_after` with a real guest.

use std::time::{Duration, Instant};

use banger_e2e::{Elsewhere, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);
const CONFIG: &str = "bridge_name = \"stale0\"\nbridge_ip = \"172.31.10.1\"\ncidr = \"172.31.10.0/24\"\n\
    auto_stop_stale_after = \"12s\"\n";

#[test]
fn a_vm_that_nobody_uses_is_stopped_with_notice_and_one_that_is_used_is_not() {
    let elsewhere = Elsewhere::new();
    elsewhere.copy_artefacts("debian-minimal");
    std::fs::write(elsewhere.path("config/banger/config.toml"), CONFIG).unwrap();
    let ok = |args: &[&str]| {
        let finished = elsewhere.run(args);
        assert_eq!(finished.code, 0, "banger {args:?}\n{}", finished.stderr);
        finished.stdout
    };
    let list = || -> Value { serde_json::from_str(&ok(&["vm", "list", "-o", "json"])).unwrap() };
    ok(&[
        "vm",
        "create",
        "--name",
        "old",
        "--image",
        "debian-minimal",
        "--memory",
        "256",
    ]);
    // A client that is attached for longer than the time: it is not stopped.
    let started = Instant::now();
    ok(&["vm", "exec", "old", "--", "sleep", "16"]);
    assert!(started.elapsed() > Duration::from_secs(15));
    assert_eq!(list()["vms"][0]["phase"], "running");
    // A forward that nobody goes through.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = format!("{}:80", free.local_addr().unwrap().port());
    drop(free);
    let forwarding = Instant::now();
    let mut forward = elsewhere
        .command(&["vm", "forward", "old", &ports])
        .spawn()
        .unwrap();
    until("it was held for longer than the time", PATIENCE, || {
        assert!(forward.try_wait().unwrap().is_none(), "it ended");
        forwarding.elapsed() > Duration::from_secs(16)
    });
    assert_eq!(list()["vms"][0]["phase"], "running");
    forward.kill().unwrap();
    forward.wait().unwrap();
    let started = Instant::now();
    let mut warned = false;
    until("the VM is stopped", PATIENCE, || {
        let vm = list()["vms"][0].clone();
        warned |= vm["stops_unused_in_s"].is_u64();
        vm["phase"] == "stopped"
    });
    assert!(warned, "it was said in the list before");
    assert!(
        started.elapsed() > Duration::from_secs(10),
        "not before its time"
    );
    // It comes back with its time anew.
    ok(&["vm", "start", "old"]);
    assert_eq!(ok(&["vm", "exec", "old", "--", "echo", "hi"]), "hi\n");
    ok(&["vm", "delete", "old"]);
}
