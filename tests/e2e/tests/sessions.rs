//! Sessions in a real guest: kept without clients, over daemons that die and over the VM's restart.

use std::io::Write;
use std::time::Duration;

use banger_e2e::{Banger, Client, Finished, SMALL, Terminal, Vm, soak, until};
use serde_json::Value;
use sha2::{Digest, Sha256};

const PATIENCE: Duration = Duration::from_secs(60);

/// `vm session VERB VM NAME MORE…`, run to its end.
fn session(banger: &Banger, vm: &Vm, verb: &str, more: &[&str]) -> Finished {
    let base = ["vm", "session", verb, &vm.name];
    banger.run(&[&base[..], more].concat())
}

fn ok(banger: &Banger, vm: &Vm, verb: &str, more: &[&str]) -> String {
    let done = session(banger, vm, verb, more);
    assert_eq!(done.code, 0, "{verb} {more:?}: {}", done.stderr);
    done.stdout
}

fn show(banger: &Banger, vm: &Vm, name: &str) -> Value {
    let text = ok(banger, vm, "show", &[name, "-o", "json"]);
    serde_json::from_str(&text).expect("JSON")
}

fn until_ended(banger: &Banger, vm: &Vm, name: &str) -> Value {
    let mut info = Value::Null;
    until("the session has ended", PATIENCE, || {
        info = show(banger, vm, name);
        info["state"] == "ended"
    });
    info
}

fn client(banger: &Banger, vm: &Vm, verb: &str, more: &[&str]) -> Client {
    let base = ["vm", "session", verb, &vm.name];
    Client::start(banger, &[&base[..], more].concat())
}

/// `from` to `to` as `seq` prints them.
fn lines(from: usize, to: usize) -> Vec<u8> {
    (from..=to)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect()
}

#[test]
fn a_detached_session_needs_no_client_and_its_log_and_status_stay() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let script = "echo out; sleep 0.2; echo err >&2; sleep 0.2; echo again; exit 3";
    let said = ok(
        &banger,
        &vm,
        "start",
        &["--name", "one", "--", "sh", "-c", script],
    );
    assert!(said.contains("session one runs"), "{said}");
    let info = until_ended(&banger, &vm, "one");
    assert_eq!(info["status"]["code"], 3, "{info}");
    assert_eq!(ok(&banger, &vm, "logs", &["one"]), "out\nerr\nagain\n");
    let stderr = ok(&banger, &vm, "logs", &["one", "--stream", "stderr"]);
    assert_eq!(stderr, "err\n");

    // From a position on, each piece with its own.
    let pieces = ok(&banger, &vm, "logs", &["one", "--from", "4", "-o", "json"]);
    let first: Value = serde_json::from_str(pieces.lines().next().expect("a line")).expect("JSON");
    assert_eq!(
        (&first["position"], &first["text"]),
        (&4.into(), &"err\n".into())
    );
    assert_eq!(ok(&banger, &vm, "logs", &["one", "--last", "6"]), "again\n");

    let refused = session(&banger, &vm, "attach", &["one"]);
    refused.assert_failed("no input", 125, &["invalid_argument", "--stdin-mode"]);
    let taken = session(&banger, &vm, "start", &["--name", "one", "--", "true"]);
    taken.assert_failed("a name that is taken", 5, &["name_taken", "one"]);
    ok(
        &banger,
        &vm,
        "start",
        &["--name", "one", "--replace", "--", "echo", "new"],
    );
    until_ended(&banger, &vm, "one");
    assert_eq!(ok(&banger, &vm, "logs", &["one"]), "new\n");
    ok(&banger, &vm, "delete", &["one"]);
    let gone = session(&banger, &vm, "show", &["one"]);
    gone.assert_failed("deleted", 4, &["session_not_found"]);
}

#[test]
fn what_is_missing_is_said_before_anything_starts() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    for (flags, text) in [
        (&["--", "no-such-program"][..], "no-such-program"),
        (&["-w", "/no/such/folder", "--", "true"], "/no/such/folder"),
        (
            &["--require-command", "no-such-tool", "--", "true"],
            "no-such-tool",
        ),
    ] {
        let refused = session(&banger, &vm, "start", flags);
        assert_ne!(refused.code, 0, "{flags:?}");
        assert!(refused.stderr.contains(text), "{}", refused.stderr);
        assert_eq!(refused.stdout, "");
    }
    let list = banger.json(&["vm", "session", "list", &vm.name]);
    assert_eq!(list["sessions"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_log_is_followed_over_the_daemons_death_to_the_sessions_end() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let script =
        "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i; sleep 0.01; done; echo end";
    ok(
        &banger,
        &vm,
        "start",
        &["--name", "count", "--", "sh", "-c", script],
    );
    let mut follower = client(&banger, &vm, "logs", &["count", "--follow"]);
    let mut seen = follower.hear("\n50\n");
    banger.kill_daemon();
    seen += &follower.hear("\n150\n");
    vm.sh("touch /tmp/stop");
    let ended = follower.end();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    seen += &ended.stdout;
    let numbers = seen.strip_suffix("end\n").expect("the last line");
    let count = numbers.lines().count();
    assert_eq!(numbers.as_bytes(), lines(1, count));
    assert_eq!(ok(&banger, &vm, "logs", &["count"]), seen);
}

#[test]
fn attached_over_deaths_of_daemon_and_client_not_a_byte_is_lost() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let script = "read go; seq 400000; exit 6";
    let flags = [
        "--name",
        "s",
        "--stdin-mode",
        "pipe",
        "--",
        "sh",
        "-c",
        script,
    ];
    ok(&banger, &vm, "start", &flags);
    let whole = lines(1, 400_000);
    let mut digest = Sha256::new();
    let mut count = 0;
    let mut take = |bytes: &[u8]| {
        digest.update(bytes);
        count += bytes.len();
        count.to_string()
    };

    let mut one = client(&banger, &vm, "attach", &["s"]);
    one.say(b"go\n");
    take(&one.hear_bytes(100_000));
    let second = session(&banger, &vm, "attach", &["s"]);
    second.assert_failed("attached twice", 125, &["in_use", "--take-over"]);
    banger.kill_daemon();
    take(&one.hear_bytes(900_000));
    // The client is killed; with one's own count, each byte comes exactly once.
    let from = take(&one.kill());
    let mut two = client(&banger, &vm, "attach", &["s", "--from", &from]);
    take(&two.hear_bytes(200_000));

    let (vm_name, stolen) = (&vm.name, ["vm", "session", "attach", &vm.name, "s"]);
    let mut three = Client::start(&banger, &[&stolen[..], &["--take-over"]].concat());
    let (rest, taken) = two.end_with_bytes();
    taken.assert_failed("taken over", 125, &["taken over", "--from"]);
    let from = take(&rest);
    assert!(
        taken.stderr.contains(&format!("--from {from}")),
        "{vm_name}: {}",
        taken.stderr
    );
    three.signal(rustix::process::Signal::TERM);
    let detached = three.end_with_bytes().1;
    assert_eq!(detached.code, 128 + 15, "{}", detached.stderr);

    let mut last = client(&banger, &vm, "attach", &["s", "--from", &from]);
    let (rest, ended) = last.end_with_bytes();
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    take(&rest);
    assert_eq!(count, whole.len());
    assert_eq!(digest.finalize(), Sha256::digest(&whole));
    let logged = ok(&banger, &vm, "logs", &["s"]);
    assert!(logged.as_bytes() == whole, "the log is another");
}

#[test]
fn a_program_that_reads_takes_all_input_and_gives_it_back() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let flags = ["--name", "cat", "--stdin-mode", "pipe", "--", "cat"];
    ok(&banger, &vm, "start", &flags);
    let whole = lines(1, 1_000_000);
    let mut attached = client(&banger, &vm, "attach", &["cat"]);
    let mut input = attached.take_input();
    let sent = whole.clone();
    // Dropped at its end: the end of the session's input, and so of `cat`.
    let writer = std::thread::spawn(move || input.write_all(&sent));
    let (bytes, ended) = attached.end_with_bytes();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(bytes == whole, "{} of {} bytes", bytes.len(), whole.len());
    assert!(writer.join().expect("joins").is_ok());
}

#[test]
fn a_terminal_is_left_and_found_again_as_it_was() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let flags = ["--name", "shell", "--stdin-mode", "pty", "--", "sh"];
    ok(&banger, &vm, "start", &flags);
    let attach = banger.command(&["vm", "session", "attach", &vm.name, "shell"]);
    let mut terminal = Terminal::start(&attach, 33, 99);
    terminal.expect("Ctrl-] detaches", PATIENCE);
    terminal.type_in("here=yes; stty size; echo do''ne\r");
    let said = terminal.expect("done", PATIENCE);
    assert!(said.contains("33 99"), "{said}");
    terminal.type_in("\u{1d}");
    terminal.expect("the session goes on", PATIENCE);
    assert_eq!(terminal.wait(), 0);

    banger.kill_daemon();
    let mut terminal = Terminal::start(&attach, 40, 120);
    terminal.expect("Ctrl-] detaches", PATIENCE);
    terminal.type_in("echo still $here; stty size; echo do''ne\r");
    let said = terminal.expect("done", PATIENCE);
    assert!(
        said.contains("still yes") && said.contains("40 120"),
        "{said}"
    );
    terminal.type_in("exit 9\r");
    assert_eq!(terminal.wait(), 9);
    assert_eq!(show(&banger, &vm, "shell")["status"]["code"], 9);
}

#[test]
fn what_shall_come_back_with_the_vm_does_and_the_rest_is_cut_off() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let script = "echo run in $WHERE; exec sleep 1000";
    let flags = [
        "--name",
        "back",
        "--on-boot",
        "--env",
        "WHERE=here",
        "--",
        "sh",
        "-c",
        script,
    ];
    ok(&banger, &vm, "start", &flags);
    ok(
        &banger,
        &vm,
        "start",
        &[
            "--name",
            "cut",
            "--",
            "sh",
            "-c",
            "echo kept; exec sleep 1000",
        ],
    );
    ok(
        &banger,
        &vm,
        "start",
        &["--name", "over", "--on-boot", "--", "echo", "once"],
    );
    until_ended(&banger, &vm, "over");
    client(&banger, &vm, "logs", &["back", "-f"]).hear("run in here\n");
    banger.ok(&["vm", "restart", &vm.name]);
    let came_back = |runs: usize| {
        until("it runs again", PATIENCE, || {
            let info = show(&banger, &vm, "back");
            info["state"] == "running" && info["runs"].as_u64() >= Some(runs as u64)
        });
        let said = "run in here\n".repeat(runs);
        until("its output is logged", PATIENCE, || {
            ok(&banger, &vm, "logs", &["back"]).ends_with(&said)
        });
        assert_eq!(show(&banger, &vm, "cut")["state"], "cut");
        assert_eq!(ok(&banger, &vm, "logs", &["cut"]), "kept\n");
        assert_eq!(show(&banger, &vm, "over")["runs"], 1);
    };
    came_back(2);
    // One that is killed loses no more than what its kernel had not written.
    vm.sh("sync");
    banger.ok(&["vm", "kill", &vm.name]);
    banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
    came_back(3);
    ok(&banger, &vm, "stop", &["back"]);
    assert_eq!(show(&banger, &vm, "back")["asked"], true);
    // The values of its environment are shown to nobody.
    let shown = show(&banger, &vm, "back").to_string();
    assert!(
        shown.contains("WHERE") && !shown.contains("WHERE=here"),
        "{shown}"
    );
}

#[test]
fn a_failure_starts_again_until_it_is_stopped_and_what_ignores_its_end_is_killed() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let flags = [
        "--name",
        "fails",
        "--restart",
        "on-failure",
        "--",
        "sh",
        "-c",
        "echo run; exit 4",
    ];
    ok(&banger, &vm, "start", &flags);
    client(&banger, &vm, "logs", &["fails", "-f"]).hear("run\nrun\n");
    ok(&banger, &vm, "stop", &["fails"]);
    let runs = show(&banger, &vm, "fails")["runs"].clone();
    let stubborn = "trap '' TERM; echo there; while :; do sleep 1; done";
    ok(
        &banger,
        &vm,
        "start",
        &["--name", "stubborn", "--", "sh", "-c", stubborn],
    );
    client(&banger, &vm, "logs", &["stubborn", "-f"]).hear("there\n");
    ok(&banger, &vm, "stop", &["stubborn", "--grace", "1"]);
    let info = show(&banger, &vm, "stubborn");
    assert_eq!(info["status"]["signal"], 9, "{info}");
    assert_eq!(show(&banger, &vm, "fails")["runs"], runs);
}

#[test]
fn whoever_is_attached_is_told_that_the_vm_has_gone_and_where_to_go_on() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    for end in ["stop", "kill"] {
        let script = "echo up; while sleep 1; do echo tick; done";
        let flags = [
            "--name",
            end,
            "--stdin-mode",
            "pipe",
            "--",
            "sh",
            "-c",
            script,
        ];
        ok(&banger, &vm, "start", &flags);
        let mut attached = client(&banger, &vm, "attach", &[end]);
        let mut follower = client(&banger, &vm, "logs", &[end, "--follow"]);
        attached.hear("tick\n");
        follower.hear("tick\n");
        vm.sh("sync");
        banger.ok(&["vm", end, &vm.name]);
        let (_, ended) = attached.end_with_bytes();
        // A clean stop ends the session first, which is an end like others.
        assert_ne!(ended.code, 0, "{end}: {}", ended.stderr);
        if end == "kill" {
            ended.assert_failed(end, 125, &["agent_unreachable", "--from", "vm show"]);
        }
        let (_, cut) = follower.end_with_bytes();
        assert!(
            end == "stop" || cut.stderr.contains("--from"),
            "{end}: {}",
            cut.stderr
        );
        assert!(!cut.stderr.contains("panicked"), "{}", cut.stderr);
        banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
        let info = show(&banger, &vm, end);
        assert!(
            ["cut", "ended"].contains(&info["state"].as_str().unwrap_or_default()),
            "{info}"
        );
        assert!(
            ok(&banger, &vm, "logs", &[end]).starts_with("up\n"),
            "{end}"
        );
    }
}

#[test]
fn every_byte_comes_once_while_clients_and_daemons_are_killed() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let soak = soak(&banger, &vm, 20, Duration::from_secs(10), 1);
    println!("{}", soak.summary());
    assert_eq!(soak.problems, Vec::<String>::new());
    assert_eq!(soak.sessions, 20);
}
