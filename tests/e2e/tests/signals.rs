//! SIGTERM, SIGHUP and SIGINT to each process, and many commands at once: no VM is lost, and the next command works.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use banger_e2e::{Banger, Client, SMALL, Vm, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const SIGNALS: [Signal; 3] = [Signal::TERM, Signal::HUP, Signal::INT];

fn send(pid: &Value, signal: Signal) {
    let pid = i32::try_from(pid.as_u64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn gone(pid: &Value) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_err()
}

/// The process of a VM that runs that program.
fn process_of(vm: &Vm, program: &str) -> Value {
    let run = format!("/vms/{}/run", vm.show()["id"].as_str().unwrap());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let link = |pid: u64, name: &str| {
        let target = std::fs::read_link(format!("/proc/{pid}/{name}"));
        target
            .map(|path| path.display().to_string())
            .unwrap_or_default()
    };
    let mut found =
        pids.filter(|pid| link(*pid, "cwd").ends_with(&run) && link(*pid, "exe").contains(program));
    found
        .next()
        .unwrap_or_else(|| panic!("no {program}"))
        .into()
}

#[test]
fn daemon_and_helper_end_and_everything_else_goes_on() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let vmm = vm.show()["vmm_pid"].clone();
    let mut open = Client::start(&banger, &["vm", "exec", "-i", &vm.name, "--", "cat"]);
    let mut echo = |text: &str| {
        open.say(text.as_bytes());
        assert_eq!(open.hear_bytes(text.len()), text.as_bytes());
    };
    // From here on nobody is needed for it.
    echo("the stream is there\n");
    for signal in SIGNALS {
        for who in ["daemon", "helper"] {
            let pid = banger.json(&["daemon", "start"])["version"][who]["pid"].clone();
            send(&pid, signal);
            until(&format!("{who} ends on {signal:?}"), PATIENCE, || {
                gone(&pid)
            });
            echo("the stream goes on\n");
            assert_eq!(vm.sh("echo here"), "here", "{who} {signal:?}");
            assert_eq!(vm.show()["vmm_pid"], vmm, "{who} {signal:?}");
        }
    }
    assert_eq!(open.end().code, 0);
}

#[test]
fn a_vmm_or_its_backend_that_is_signalled_is_a_failure_and_starts_again() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    for signal in SIGNALS {
        for program in ["qemu-system", "banger-vhost-vsock"] {
            let pid = process_of(&vm, program);
            send(&pid, signal);
            let what = format!("{program} {signal:?}");
            until(&format!("{what} is noticed"), PATIENCE, || {
                vm.phase() == "failed"
            });
            assert_eq!(vm.show()["last_error"]["code"], "vmm_failed", "{what}");
            banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
            assert_eq!(vm.sh("echo back"), "back", "{what}");
        }
    }
}

/// Who asks a client to end takes its wish back; a client that vanishes does not.
#[test]
fn a_client_that_is_ended_cancels_and_one_that_vanishes_does_not() {
    let banger = Banger::from_env();
    for (number, signal) in [Signal::TERM, Signal::HUP, Signal::KILL]
        .into_iter()
        .enumerate()
    {
        let name = format!("ended-{number}");
        let create = ["vm", "create", "--name", &name];
        let mut child = banger.spawn(&[&create[..], SMALL].concat());
        let code = || banger.run(&["vm", "show", &name]).code;
        until("it is begun", PATIENCE, || code() == 0);
        send(&child.id().into(), signal);
        let status = child.wait().unwrap();
        assert!(!status.success(), "{signal:?}: {status}");
        if signal == Signal::TERM {
            until("it is gone", PATIENCE * 3, || code() == 4);
            continue;
        }
        until("it is made all the same", PATIENCE * 3, || {
            banger.json(&["vm", "show", &name])["phase"] == "running"
        });
        banger.ok(&["vm", "delete", &name]);
    }
}

#[test]
fn a_hundred_commands_at_once() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let kinds: [&[&str]; 6] = [
        &["vm", "list"],
        &["vm", "show", &vm.name],
        &["vm", "exec", &vm.name, "--", "true"],
        &["vm", "stats", &vm.name],
        &["vm", "ports", &vm.name],
        &["image", "list"],
    ];
    // The daemon is started by one of them.
    banger.kill_daemon();
    let all: Vec<_> = (0..100)
        .map(|number| (number, banger.spawn(kinds[number % kinds.len()])))
        .collect();
    for (number, child) in all {
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.success(),
            "{:?}: {said}",
            kinds[number % kinds.len()]
        );
    }
    // Of stops and starts at once each has an answer, and the VM is one of both in the end.
    let all: Vec<_> = (0..20)
        .map(|number| {
            banger.spawn(&[
                "vm",
                if number % 2 == 0 { "stop" } else { "start" },
                &vm.name,
            ])
        })
        .collect();
    for child in all {
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.success() || said.contains("[cancelled]"),
            "{said}"
        );
    }
    assert!(
        ["running", "stopped"].contains(&vm.phase().as_str()),
        "{}",
        vm.phase()
    );
}

/// With next to no files to open, clients wait their turn or are told; afterwards all is well.
#[test]
fn a_daemon_that_has_no_files_left_goes_on_when_it_has() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    // The hard limit stays as it is: raising it is not everybody's.
    let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = |files: u64| {
        let pid = banger.json(&["daemon", "start"])["version"]["daemon"]["pid"]
            .as_u64()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap());
        let limit = rustix::process::Rlimit {
            current: Some(files),
            maximum,
        };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    };
    let status = banger.json(&["daemon", "start"]);
    let pid = status["version"]["daemon"]["pid"].clone();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count() as u64;
    limit(open + 4);
    let socket = banger.ok(&["daemon", "socket"]);
    let held: Vec<_> = (0..40)
        .filter_map(|_| std::os::unix::net::UnixStream::connect(socket.trim()).ok())
        .collect();
    drop(held);
    until("it answers again", PATIENCE, || {
        banger.run(&["vm", "list"]).code == 0
    });
    limit(maximum.unwrap_or(65_536));
    assert_eq!(
        banger.json(&["daemon", "status"])["version"]["daemon"]["pid"],
        pid,
        "it is the same one"
    );
    assert_eq!(vm.sh("echo here"), "here");
}
