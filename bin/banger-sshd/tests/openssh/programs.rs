//! What runs in a channel: streams, codes, signals, terminals.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::world::{World, bytes, run};

#[test]
fn a_command_has_its_streams_its_code_and_its_signal() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let finished = world.ssh(&["echo out; echo err >&2; exit 7"]);
    assert_eq!(finished.text(), "out\n");
    assert_eq!(finished.stderr, "err\n");
    assert_eq!(finished.status.code(), Some(7));
    assert_eq!(world.ssh(&["exit 0"]).status.code(), Some(0));
    // OpenSSH has no code of its own for a signal but 255.
    let killed = world.ssh(&["kill -TERM $$"]);
    assert_eq!(killed.status.code(), Some(255), "{killed:?}");
    let missing = world.ssh(&["no-such-program-anywhere"]);
    assert_eq!(missing.status.code(), Some(127));
    // A session of its own, so that a signal reaches all of it and nobody else.
    let alone = world
        .ssh(&["ps -o pid=,sid= -p $$ | { read -r pid sid; test $pid = $sid && echo alone; }"]);
    assert_eq!(alone.text(), "alone\n", "{alone:?}");
}

#[test]
fn the_end_of_input_arrives_and_what_is_left_behind_is_not_waited_for() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let mut command = world.client("ssh");
    let finished = run(command.args(["guest", "cat; echo end"]), b"in\n");
    assert_eq!(finished.text(), "in\nend\n");
    // Reads nothing of a lot of input.
    let mut command = world.client("ssh");
    let finished = run(command.args(["guest", "echo done"]), &bytes(4 << 20));
    assert_eq!(finished.text(), "done\n");
    let begun = Instant::now();
    let finished = world.ssh(&["sleep 100 & echo here"]);
    assert_eq!(finished.text(), "here\n");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn ten_megabytes_go_both_ways_at_once() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let sent = bytes(10 << 20);
    for line in ["cat", "tee /dev/stderr"] {
        let mut command = world.client("ssh");
        let finished = run(command.args(["guest", line]), &sent);
        assert!(finished.status.success());
        assert!(finished.stdout == sent, "{line}: {}", finished.stdout.len());
    }
    let slow = "sleep 1; cat | sha256sum; head -c 10485760 /dev/zero | wc -c";
    let mut command = world.client("ssh");
    // More than waits in the server at most.
    let finished = run(command.args(["guest", slow]), &bytes(40 << 20));
    assert!(finished.text().ends_with("10485760\n"), "{finished:?}");
}

#[test]
fn a_terminal_has_its_size_its_name_and_its_end() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let mut command = world.client("ssh");
    command.args(["-tt", "guest", "tty; echo $TERM; test -t 2 && echo tty"]);
    let finished = run(command.env("TERM", "vt220"), b"");
    assert!(finished.text().starts_with("/dev/pts/"), "{finished:?}");
    assert!(
        finished.text().ends_with("vt220\r\ntty\r\n"),
        "{finished:?}"
    );
    // The end of the input is the terminal's key for it.
    let mut command = world.client("ssh");
    let finished = run(command.args(["-tt", "guest", "cat; echo over"]), b"line\n");
    assert!(finished.text().ends_with("over\r\n"), "{finished:?}");
    // A shell, as somebody who types.
    let mut command = world.client("ssh");
    let finished = run(
        command.args(["-tt", "guest"]),
        b"echo $((40 + 2))\nexit 3\n",
    );
    assert!(finished.text().contains("42\r\n"), "{finished:?}");
    assert_eq!(finished.status.code(), Some(3));
    let mut command = world.client("ssh");
    let code = run(command.args(["-tt", "guest", "exit 9"]), b"");
    assert_eq!(code.status.code(), Some(9));
    let finished = world.ssh(&["tty"]);
    assert_eq!(finished.text(), "not a tty\n");
}

#[test]
fn a_changed_size_reaches_the_program() {
    let Some(world) = World::with(&["script", "stty"]) else {
        return;
    };
    // Util-linux's script gives the client a terminal whose size can be changed.
    let line = format!(
        "{} -tt guest 'trap \"stty size; exit 0\" WINCH; stty size; while :; do sleep 0.1; done'",
        world.ssh_line()
    );
    let inner = format!(
        "t=$(tty); stty rows 20 cols 70; (while ! grep -q '20 70' {out}; do sleep 0.1; done; stty rows 33 cols 111 <$t) & {line}",
        out = world.path("out").display()
    );
    let mut command = std::process::Command::new("script");
    command
        .args(["-q", "-f", "-c", &inner])
        .arg(world.path("out"));
    let finished = run(&mut command, b"");
    assert!(finished.text().contains("33 111"), "{finished:?}");
}

#[test]
fn variables_are_taken_when_they_are_harmless() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    // The server is the client's own child here: it must not have them from there.
    let config = fs::read_to_string(world.path("config")).unwrap();
    let without = "ProxyCommand env -u LC_TEST -u BASH_ENV -u GIT_PROTOCOL ";
    let config = config.replace("ProxyCommand ", without);
    fs::write(world.path("config"), config).unwrap();
    let mut command = world.client("ssh");
    command.args(["-o", "SendEnv=LC_TEST BASH_ENV GIT_PROTOCOL"]);
    command.args(["guest", "echo [$LC_TEST] [$BASH_ENV] [$GIT_PROTOCOL] $HOME"]);
    command
        .env("LC_TEST", "a b")
        .env("GIT_PROTOCOL", "version=2");
    command.env("BASH_ENV", "/nowhere");
    let text = run(&mut command, b"").stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("[a b] [] [version=2] /"), "{text}");
}

/// Whether the process of that number still runs.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (_kept, never) = channel::<()>();
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        let _ = never.recv_timeout(Duration::from_millis(50));
    }
}

#[test]
fn a_client_that_goes_away_takes_its_program_along() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    for terminal in [false, true] {
        let mut command = world.client("ssh");
        if terminal {
            command.arg("-tt");
        }
        let mut child = command
            .args(["guest", "echo $$ $PPID; exec sleep 1000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut said).unwrap();
        let (program, server) = said.split_once(' ').unwrap();
        assert!(lives(program) && lives(server), "{said}");
        // Without any chance to say so.
        child.kill().unwrap();
        child.wait().unwrap();
        until("the program ends", || !lives(program));
        until("the server ends", || !lives(server));
    }
}

/// Does not outlive its test, also when that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn several_channels_share_a_connection_and_are_bounded() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let socket = world.path("control");
    let control = format!("ControlPath={}", socket.display());
    let master = world
        .client("ssh")
        .args(["-o", &control, "-M", "-N", "guest"])
        .stdin(Stdio::null())
        .spawn();
    let _master = Killed(master.unwrap());
    until("the first client is in", || socket.exists());
    // One that is refused there must not get in by a connection of its own.
    let alone = "ProxyCommand=false";
    let start = || {
        world
            .client("ssh")
            .args(["-o", &control, "-o", alone, "guest", "echo in; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut inside = vec![];
    let mut refused = 0;
    for _ in 0..34 {
        let mut child = start();
        let mut first = [0; 3];
        match child.stdout.as_mut().unwrap().read_exact(&mut first) {
            Ok(()) => inside.push(child),
            Err(_) => {
                refused += 1;
                child.wait().unwrap();
            }
        }
    }
    assert_eq!((inside.len(), refused), (32, 2));
    // One that reads nothing does not hold up another.
    let mut last = inside.pop().unwrap();
    let mut stdin = last.stdin.take().unwrap();
    stdin.write_all(b"still here").unwrap();
    drop(stdin);
    let output = last.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"still here");
    // Their places are free again.
    for mut child in inside.drain(..) {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
    until("a place is free", || {
        start().wait_with_output().unwrap().stdout == b"in\n"
    });
}
