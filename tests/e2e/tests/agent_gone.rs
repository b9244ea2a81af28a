//! A guest whose agent was killed: every verb answers in time, by an error that says what to do or by doing without it.
//! The table is in `docs/looking-into-a-vm.md`.

use std::time::{Duration, Instant};

use banger_e2e::{Banger, Finished};
use serde_json::Value;

/// What waits for an agent gives it 20 s; the rest is this machine's.
const BOUND: Duration = Duration::from_secs(60);

/// Runs the command; it must be done in time.
fn timed(banger: &Banger, args: &[&str]) -> Finished {
    let begun = Instant::now();
    let finished = banger.run(args);
    let took = begun.elapsed();
    assert!(took < BOUND, "{args:?} took {took:?}: {}", finished.stderr);
    finished
}

#[test]
fn every_verb_answers_in_time_for_a_guest_whose_agent_is_gone() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "ready"]);
    let name = vm.name.as_str();
    let killed = vm.exec(&["sh", "-c", "pkill -9 banger-agent; sleep 60"]);
    assert_eq!(killed.code, 125, "{}", killed.stderr);

    // What needs the agent says that it is gone, and what to do.
    let from = format!("{name}:/etc/hostname");
    let to = format!("{name}:/root/copy");
    let needy: &[(&[&str], i32)] = &[
        (&["vm", "exec", name, "--", "true"], 125),
        (&["vm", "ports", name], 1),
        (&["vm", "cp", &from, "-"], 1),
        (&["vm", "cp", "/etc/hostname", &to], 1),
        (&["vm", "forward", name, "18080:80"], 1),
        (&["vm", "session", "list", name], 1),
        (&["vm", "session", "start", name, "--", "true"], 1),
        (&["vm", "acp", name], 125),
    ];
    // Side by side: each waits for its time.
    std::thread::scope(|scope| {
        for (args, code) in needy {
            let banger = &banger;
            scope.spawn(move || {
                let finished = timed(banger, args);
                let texts = &["[agent_unreachable]", "hint:", "banger vm logs"];
                finished.assert_failed(&format!("{args:?}"), *code, texts);
            });
        }
    });

    // What does not need it works.
    let show = timed(&banger, &["vm", "show", name, "-o", "json"]);
    let shown: Value = serde_json::from_str(&show.stdout).expect("JSON");
    assert_eq!(shown["phase"], "running", "{shown}");
    assert_eq!(shown["operation"], Value::Null, "{shown}");
    let stats = timed(&banger, &["vm", "stats", name, "-o", "json"]);
    let stats: Value = serde_json::from_str(&stats.stdout).expect("JSON");
    assert!(stats["vms"][0]["guest"].is_null(), "{stats}");
    assert!(stats["vms"][0]["guest_problem"].is_string(), "{stats}");
    assert!(!stats["vms"][0]["host"].is_null(), "{stats}");
    let ssh = timed(&banger, &["vm", "ssh", name, "--", "echo", "hi"]);
    assert_eq!(
        (ssh.code, ssh.stdout.as_str()),
        (0, "hi\n"),
        "{}",
        ssh.stderr
    );
    for args in [
        &["vm", "list"][..],
        &["vm", "logs", name],
        &["vm", "start", name],
        &["vm", "set", name, "--nat"],
        &["vm", "set", name, "--no-nat"],
    ] {
        let finished = timed(&banger, args);
        assert_eq!(finished.code, 0, "{args:?}: {}", finished.stderr);
    }
    let refused = timed(&banger, &["vm", "set", name, "--memory", "512"]);
    refused.assert_failed("set --memory", 5, &["[vm_running]"]);

    // It cannot be asked to shut down: it is ended by force, after its time.
    let stop = timed(&banger, &["vm", "stop", "--grace", "3", name, "-o", "json"]);
    let stopped: Value = serde_json::from_str(&stop.stdout).expect("JSON");
    assert_eq!(stopped[0]["forced"], true, "{stopped}");
    assert_eq!(vm.phase(), "stopped");
    banger.ok(&["vm", "start", "--wait", "reachable", name]);
    assert_eq!(vm.sh("echo back"), "back");

    // And once more, for a kill: that asks nobody.
    let killed = vm.exec(&["sh", "-c", "pkill -9 banger-agent; sleep 60"]);
    assert_eq!(killed.code, 125, "{}", killed.stderr);
    assert_eq!(timed(&banger, &["vm", "kill", name]).code, 0);
    assert_eq!(vm.phase(), "stopped");
    assert_eq!(timed(&banger, &["vm", "delete", name]).code, 0);
}
