//! Ctrl-C while `vm run` is at work: whatever stage it meets, nothing is left.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use banger_e2e::{Banger, until};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);

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

fn vms(banger: &Banger) -> usize {
    banger.json(&["vm", "list"])["vms"]
        .as_array()
        .unwrap()
        .len()
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
        let pause = Duration::from_millis(delay).try_into().unwrap();
        let _ = rustix::event::poll(&mut [], Some(&pause));
        interrupt(&child);
        let ended = child.wait_with_output().unwrap();
        assert!(!ended.status.success(), "after {delay} ms: {ended:?}");
        assert_nothing_left(&banger, &format!("{delay} ms"));
    }
}
