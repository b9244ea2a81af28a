//! Ctrl-C while `vm run` is at work: whatever stage it meets, nothing is left.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use banger_e2e::{Banger, until};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);
/// Says when it begins.
const LINE: &str = "echo begun; sleep 1000";

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

fn run(banger: &Banger, flags: &[&str], line: &str) -> Child {
    let mut command: Command = banger.command(&["vm", "run", "--image", "debian-minimal"]);
    command.args(flags).args(["--", "sh", "-c", line]);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn pause(milliseconds: u64) {
    let pause = Duration::from_millis(milliseconds).try_into().unwrap();
    let _ = rustix::event::poll(&mut [], Some(&pause));
}

fn vms(banger: &Banger) -> usize {
    banger.json(&["vm", "list"])["vms"]
        .as_array()
        .unwrap()
        .len()
}

fn delete_the_one_that_was_kept(banger: &Banger) {
    let all = banger.json(&["vm", "list"])["vms"].clone();
    assert_eq!(all[0]["phase"], "running", "{all}");
    banger.ok(&["vm", "delete", all[0]["name"].as_str().unwrap()]);
}

fn assert_nothing_left(banger: &Banger, stage: &str) {
    until(&format!("nothing is left after {stage}"), PATIENCE, || {
        vms(banger) == 0
    });
    let folders = std::fs::read_dir(banger.state_dir().join("vms"))
        .unwrap()
        .count();
    assert_eq!(folders, 0, "after {stage}");
}

#[test]
fn an_interrupt_at_any_moment_leaves_nothing_of_an_ephemeral_vm() {
    let banger = Banger::from_env();
    // Over the whole of a run, denser at its beginning, where most happens.
    for delay in [
        1, 3, 6, 10, 15, 20, 30, 40, 60, 100, 300, 700, 1200, 1700, 2500,
    ] {
        let child = run(&banger, &["--rm"], "sleep 1000");
        pause(delay);
        interrupt(&child);
        let ended = child.wait_with_output().unwrap();
        assert!(!ended.status.success(), "after {delay} ms: {ended:?}");
        assert_nothing_left(&banger, &format!("{delay} ms"));
    }
}

#[test]
fn an_interrupt_before_the_command_begins_deletes_the_vm_and_afterwards_it_is_the_commands() {
    let banger = Banger::from_env();
    let mut deleted = 0;
    for delay in [2, 10, 25, 60, 200, 900, 1500] {
        let child = run(&banger, &[], LINE);
        pause(delay);
        interrupt(&child);
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(!ended.status.success(), "after {delay} ms: {ended:?}");
        if said.contains("begun") {
            delete_the_one_that_was_kept(&banger);
        } else {
            deleted += 1;
        }
        assert_nothing_left(&banger, &format!("{delay} ms"));
    }
    assert!(deleted > 0, "none was interrupted before its command began");

    let mut child = run(&banger, &[], LINE);
    let mut said = [0; 5];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(&said, b"begun");
    interrupt(&child);
    let ended = child.wait_with_output().unwrap();
    assert!(!ended.status.success(), "{ended:?}");
    delete_the_one_that_was_kept(&banger);
    assert_nothing_left(&banger, "the command's own interrupt");
}
