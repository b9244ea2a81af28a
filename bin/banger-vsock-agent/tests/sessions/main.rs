//! Sessions against the host's client: real processes and a real folder, over a Unix socket in place
//! of vsock.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod agent;
mod older;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use banger_guest::AgentErrorCode;
use banger_guest::session::{AttachEnd, AttachIo, AttachNote, LogItem, SessionError, attach};
use banger_guest_proto::{
    AttachRequest, ExitStatus, LogStart, LogsRequest, MIN_LOG, RestartPolicy, SessionRequest,
    SessionSpec, SessionState, StdinMode, Stream,
};
use rustix::process::{Pid, test_kill_process};

use agent::*;

#[test]
fn a_sessions_output_and_status_stay_after_its_end() {
    let agent = Agent::start();
    let info = agent
        .begin(sh("one", "echo out; echo err >&2; exit 7"))
        .unwrap();
    assert_eq!((info.runs, info.attached), (1, false));
    let info = agent.ended("one");
    let (status, asked) = (ExitStatus::Code(7), false);
    assert_eq!(info.state, SessionState::Ended { status, asked });
    assert_eq!(info.log.end, 8);
    assert_eq!(agent.output("one", Some(Stream::Stdout)), "out\n");
    assert_eq!(agent.output("one", Some(Stream::Stderr)), "err\n");
    assert_eq!(agent.output("one", None).len(), 8);
}

#[test]
fn what_a_session_needs_is_looked_for_before_it_starts() {
    let agent = Agent::start();
    let cases = [
        (
            vec!["no-such"],
            None,
            vec![],
            AgentErrorCode::CommandNotFound,
            "`no-such`",
        ),
        (
            vec!["true"],
            None,
            vec!["sh", "no-such"],
            AgentErrorCode::CommandNotFound,
            "`no-such`",
        ),
        (
            vec!["true"],
            Some("/no/such"),
            vec![],
            AgentErrorCode::ExecFailed,
            "/no/such",
        ),
        (
            vec!["true"],
            Some("etc"),
            vec![],
            AgentErrorCode::BadRequest,
            "absolute",
        ),
        (
            vec!["/etc/passwd"],
            None,
            vec![],
            AgentErrorCode::NotExecutable,
            "passwd",
        ),
        (vec![], None, vec![], AgentErrorCode::BadRequest, "command"),
    ];
    for (argv, cwd, require, code, text) in cases {
        let spec = SessionSpec {
            name: Some(name("x")),
            argv: argv.into_iter().map(str::to_owned).collect(),
            cwd: cwd.map(str::to_owned),
            require: require.into_iter().map(str::to_owned).collect(),
            ..SessionSpec::default()
        };
        refused(agent.begin(spec), code, text);
    }
    let spec = SessionSpec {
        log_bytes: Some(MIN_LOG - 1),
        ..sh("x", "true")
    };
    refused(agent.begin(spec), AgentErrorCode::BadRequest, "log");
    assert_eq!(agent.list(), []);
    for request in [
        SessionRequest::Show { name: name("x") },
        SessionRequest::Delete { name: name("x") },
        SessionRequest::Stop {
            name: name("x"),
            grace_ms: 1,
        },
        SessionRequest::Kill {
            name: name("x"),
            signal: 9,
        },
    ] {
        let error = agent.ask(request).unwrap_err();
        let code = AgentErrorCode::NotFound;
        assert!(matches!(error, SessionError::Refused(e) if e.code == code));
    }
}

#[test]
fn a_name_is_taken_until_the_session_is_deleted_or_replaced() {
    let agent = Agent::start();
    agent
        .begin(sh("web", "echo first; exec sleep 1000"))
        .unwrap();
    let again = || sh("web", "echo second");
    refused(
        agent.begin(again()),
        AgentErrorCode::NameTaken,
        "`web` runs",
    );
    let replace = || SessionSpec {
        replace: true,
        ..again()
    };
    refused(
        agent.begin(replace()),
        AgentErrorCode::NameTaken,
        "`web` runs",
    );
    let (name, grace_ms) = (name("web"), 5000);
    let info = agent.info(SessionRequest::Stop { name, grace_ms });
    let (status, asked) = (ExitStatus::Signal(15), true);
    assert_eq!(info.state, SessionState::Ended { status, asked });
    refused(agent.begin(again()), AgentErrorCode::NameTaken, "has ended");
    agent.begin(replace()).unwrap();
    assert_eq!(agent.output("web", None), "second\n");
    let named = SessionSpec {
        name: None,
        ..again()
    };
    assert_eq!(agent.begin(named.clone()).unwrap().name.as_str(), "sh");
    assert_eq!(agent.begin(named).unwrap().name.as_str(), "sh-2");
    agent.ended("sh");
    let name = "sh".parse().unwrap();
    agent.ask(SessionRequest::Delete { name }).unwrap();
    let names: Vec<String> = agent.list().iter().map(|i| i.name.to_string()).collect();
    assert_eq!(names, ["sh-2", "web"]);
}

#[test]
fn what_ignores_its_end_is_killed_with_all_it_started() {
    let agent = Agent::start();
    let script = "trap '' TERM; sleep 1000 & echo $!; wait; wait; sleep 1000";
    agent.begin(sh("stubborn", script)).unwrap();
    until("it is up", || agent.show("stubborn").log.end > 0);
    let request = LogsRequest {
        name: name("stubborn"),
        from: LogStart::Oldest,
        stream: None,
        follow: false,
    };
    let LogItem::Record { bytes, .. } = &agent.logs(request)[0] else {
        panic!("no output");
    };
    let child = String::from_utf8_lossy(bytes).trim().parse().unwrap();
    let child = Pid::from_raw(child).unwrap();
    let begun = Instant::now();
    let (name, grace_ms) = (name("stubborn"), 300);
    let info = agent.info(SessionRequest::Stop { name, grace_ms });
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let (status, asked) = (ExitStatus::Signal(9), true);
    assert_eq!(info.state, SessionState::Ended { status, asked });
    // An orphan: whoever is process 1 here reaps it, late perhaps.
    until("its child is gone", || is_gone(child));
}

fn is_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_failure_is_followed_by_a_restart_and_an_end_that_was_asked_for_is_not() {
    let agent = Agent::start();
    let spec = SessionSpec {
        restart: RestartPolicy::OnFailure,
        stdin_mode: StdinMode::Pipe,
        ..sh("again", "echo run; read line; echo $line; exit $line")
    };
    agent.begin(spec).unwrap();
    let mut client = Client::attach(&agent, "again", false);
    client.hear("run\n");
    client.say("3\n");
    client.hear("3\nrun\n");
    assert_eq!(agent.show("again").runs, 2);
    client.say("0\n");
    let (end, output) = client.end();
    assert_eq!(output, "run\n3\nrun\n0\n");
    assert!(
        matches!(&end, AttachEnd::Ended(info) if info.runs == 2),
        "{end:?}"
    );
    let spec = SessionSpec {
        restart: RestartPolicy::OnFailure,
        ..sh("fails", "exit 1")
    };
    agent.begin(spec).unwrap();
    until("it waits", || {
        matches!(agent.show("fails").state, SessionState::Restarting { .. })
    });
    let (name, grace_ms) = (name("fails"), 10_000);
    let info = agent.info(SessionRequest::Stop { name, grace_ms });
    assert!(!info.state.is_live(), "{info:?}");
}

#[test]
fn one_is_attached_at_a_time_and_can_be_taken_over() {
    let agent = Agent::start();
    agent.begin(sh("deaf", "exec sleep 1000")).unwrap();
    let client = Client::attach(&agent, "deaf", false);
    let error = client.thread.join().unwrap().0.unwrap_err();
    assert!(
        matches!(&error, SessionError::Refused(e) if e.hint.as_ref().unwrap().contains("--follow")),
        "{error:?}"
    );
    let spec = SessionSpec {
        stdin_mode: StdinMode::Pipe,
        ..sh("cat", "exec cat")
    };
    agent.begin(spec).unwrap();
    let mut first = Client::attach(&agent, "cat", false);
    first.say("from the first\n");
    first.hear("from the first\n");
    let second = Client::attach(&agent, "cat", false);
    let error = second.thread.join().unwrap().0.unwrap_err();
    assert!(
        matches!(&error, SessionError::Refused(e) if e.code == AgentErrorCode::Busy),
        "{error:?}"
    );
    assert!(agent.show("cat").attached);
    until("it is known what the first took", || {
        agent.show("cat").log.taken == 15
    });
    let mut third = Client::attach(&agent, "cat", true);
    assert_eq!(first.end().0, AttachEnd::TakenOver);
    third.say("from the third\n");
    third.hear("from the third\n");
    // The end of its input is the program's end.
    third.stdin = None;
    let (end, output) = third.end();
    let AttachEnd::Ended(info) = end else {
        panic!("{end:?}");
    };
    assert_eq!(output, "from the third\n");
    let (status, asked) = (ExitStatus::Code(0), false);
    assert_eq!(info.state, SessionState::Ended { status, asked });
    until("it is known that the third is gone", || {
        let info = agent.show("cat");
        !info.attached && info.log.taken == info.log.end
    });
}

#[test]
fn a_client_that_breaks_off_loses_nothing() {
    let agent = Agent::start();
    let spec = SessionSpec {
        stdin_mode: StdinMode::Pipe,
        ..sh(
            "counts",
            "i=0; while read n; do while [ $i -lt $n ]; do echo $i; i=$((i+1)); done; done",
        )
    };
    agent.begin(spec).unwrap();
    let mut expected = String::new();
    let mut all = String::new();
    let mut counted = 0;
    for goal in [1000, 5000, 5001, 20_000] {
        let mut client = Client::attach(&agent, "counts", true);
        client.say(&format!("{goal}\n"));
        client.hear(&format!("{}\n", goal - 1));
        expected.extend((counted..goal).map(|n| format!("{n}\n")));
        counted = goal;
        let seen = String::from_utf8(client.seen.clone()).unwrap();
        until("it is known what was taken", || {
            agent.show("counts").log.taken == (all.len() + seen.len()) as u64
        });
        all += &seen;
        let next = client.break_off();
        assert_eq!(next, Some(all.len() as u64));
        until("it is detached", || !agent.show("counts").attached);
    }
    assert_eq!(all, expected);
    // The program's input has not ended: it waits for the next client.
    assert!(agent.show("counts").state.is_live());
}

#[test]
fn a_program_waits_for_the_client_that_is_attached_and_for_no_other_reader() {
    let agent = Agent::start();
    // Four times what the log holds.
    let script = "read go; head -c 16777216 /dev/zero; echo done >&2; exec sleep 1000";
    let spec = |session| SessionSpec {
        stdin_mode: StdinMode::Pipe,
        log_bytes: Some(MIN_LOG),
        ..sh(session, script)
    };
    agent.begin(spec("held")).unwrap();
    let (from, mut stdin) = std::io::pipe().unwrap();
    // It begins when the client is attached.
    stdin.write_all(b"go\n").unwrap();
    let (mut read, to) = std::io::pipe().unwrap();
    let request = AttachRequest {
        name: name("held"),
        from: LogStart::Oldest,
        take_over: false,
        tty: None,
    };
    let stream = agent.connect();
    let client = thread::spawn(move || {
        let io = AttachIo {
            stdin: Some(from.as_fd()),
            stdout: to.as_fd(),
            stderr: to.as_fd(),
        };
        let mut gaps = 0;
        let mut next = None;
        let end = attach(stream, &request, io, &mut next, &mut |note| {
            gaps += u32::from(matches!(note, AttachNote::Gap { .. }));
        });
        (end, gaps)
    });
    // Nobody takes its output: what it has written stops growing below the log's size.
    let mut last = 0;
    until("it is held up", || {
        let end = agent.show("held").log.end;
        let same = end == last && end > MIN_LOG / 2;
        last = end;
        same
    });
    assert!(last < 16 << 20);
    let mut total = 0;
    let mut buffer = vec![0; 1 << 16];
    while total < (16 << 20) + 5 {
        total += read.read(&mut buffer).unwrap();
    }
    let name_of_it = name("held");
    agent.info(SessionRequest::Kill {
        name: name_of_it,
        signal: 9,
    });
    let (end, gaps) = client.join().unwrap();
    assert!(matches!(end, Ok(AttachEnd::Ended(_))), "{end:?}");
    assert_eq!(gaps, 0);

    // A reader of the log is told what it missed.
    let spec = SessionSpec {
        log_bytes: Some(MIN_LOG),
        ..sh("free", "head -c 16777216 /dev/zero; echo done >&2")
    };
    agent.begin(spec).unwrap();
    agent.ended("free");
    let request = LogsRequest {
        name: name("free"),
        from: LogStart::At(0),
        stream: None,
        follow: false,
    };
    let items = agent.logs(request);
    let LogItem::Gap { from: 0, to } = items[0] else {
        panic!("{:?}", items[0]);
    };
    let rest: u64 = items[1..]
        .iter()
        .map(|item| match item {
            LogItem::Record { bytes, .. } => bytes.len() as u64,
            LogItem::Gap { from, to } => panic!("another gap from {from} to {to}"),
        })
        .sum();
    assert_eq!(to + rest, (16 << 20) + 5);
    assert!(rest <= MIN_LOG && rest > MIN_LOG / 2, "{rest}");
}

#[test]
fn more_input_than_the_window_goes_through() {
    let agent = Agent::start();
    let mut spec = sh("counts", "wc -c");
    spec.stdin_mode = StdinMode::Pipe;
    agent.begin(spec).unwrap();
    let mut client = Client::attach(&agent, "counts", false);
    client.say(&"x".repeat(5_000_000));
    client.stdin = None;
    let (end, said) = client.end();
    assert!(matches!(end, AttachEnd::Ended(_)), "{end:?}");
    assert_eq!(said.trim(), "5000000");
}

#[test]
fn a_terminal_is_kept_over_clients() {
    let agent = Agent::start();
    let spec = SessionSpec {
        stdin_mode: StdinMode::Pty,
        env: vec![("PS1".to_owned(), "ready> ".to_owned())],
        argv: vec!["sh".to_owned(), "-i".to_owned()],
        ..sh("shell", "")
    };
    agent.begin(spec).unwrap();
    let mut client = Client::attach(&agent, "shell", false);
    client.hear("ready> ");
    client.say("A=kept; test -t 0 && echo on a term''inal\n");
    client.hear("on a terminal\r\n");
    client.break_off();
    until("it is detached", || !agent.show("shell").attached);
    let mut client = Client::attach(&agent, "shell", false);
    client.say("echo is $A\n");
    client.hear("is kept\r\n");
    client.say("exit 4\n");
    let (end, _) = client.end();
    let AttachEnd::Ended(info) = end else {
        panic!("{end:?}");
    };
    let (status, asked) = (ExitStatus::Code(4), false);
    assert_eq!(info.state, SessionState::Ended { status, asked });
}

#[test]
fn an_interactive_shell_takes_its_stop() {
    let agent = Agent::start();
    let spec = SessionSpec {
        stdin_mode: StdinMode::Pty,
        argv: vec!["sh".to_owned(), "-i".to_owned()],
        ..sh("shell", "")
    };
    agent.begin(spec).unwrap();
    let (session, grace_ms) = (name("shell"), 30_000);
    let begun = Instant::now();
    agent.info(SessionRequest::Stop {
        name: session,
        grace_ms,
    });
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_guests_end_cuts_sessions_off_and_some_come_back() {
    let mut agent = Agent::start();
    agent
        .begin(sh("gone", "echo first; exec sleep 1000"))
        .unwrap();
    let spec = SessionSpec {
        on_boot: true,
        env: vec![("SECRET".to_owned(), "s3cret".to_owned())],
        ..sh("back", "echo run $SECRET; exec sleep 1000")
    };
    let info = agent.begin(spec).unwrap();
    assert_eq!(info.env, ["SECRET"]);
    assert!(!serde_json::to_string(&info).unwrap().contains("s3cret"));
    let spec = SessionSpec {
        on_boot: true,
        ..sh("done", "echo once")
    };
    agent.begin(spec).unwrap();
    agent.ended("done");
    for session in ["gone", "back"] {
        until("it is up", || agent.show(session).log.end > 0);
    }
    agent.reboot();
    assert_eq!(agent.show("gone").state, SessionState::Cut);
    assert_eq!(agent.output("gone", None), "first\n");
    until("it is back", || agent.show("back").log.end > 11);
    let info = agent.show("back");
    assert!(
        matches!(info.state, SessionState::Running { .. }),
        "{info:?}"
    );
    assert_eq!(info.runs, 2);
    let (session, grace_ms) = (name("back"), 1000);
    agent.info(SessionRequest::Stop {
        name: session,
        grace_ms,
    });
    assert_eq!(agent.output("back", None), "run s3cret\nrun s3cret\n");
    let (status, asked) = (ExitStatus::Code(0), false);
    assert_eq!(
        agent.show("done").state,
        SessionState::Ended { status, asked }
    );
    agent.reboot();
    assert!(!agent.show("back").state.is_live(), "it was stopped");
}

#[test]
fn a_client_of_later_or_wrong_words_harms_nothing() {
    let agent = Agent::start();
    use banger_guest_proto::{ClientMessage, Frame, Hello, encode_control, encode_frame};
    let mut stream = agent.connect();
    let mut bytes = vec![];
    encode_control(&mut bytes, &ClientMessage::Hello(Hello::ours()));
    encode_frame(
        &mut bytes,
        &Frame::Control(
            br#"{"type":"session","session":"start","name":"../x","argv":["true"]}"#.to_vec(),
        ),
    );
    encode_frame(
        &mut bytes,
        &Frame::Control(br#"{"type":"session","session":"from_the_future"}"#.to_vec()),
    );
    encode_frame(&mut bytes, &Frame::Record(Stream::Stdout, 0, vec![1]));
    encode_control(&mut bytes, &ClientMessage::Ping);
    stream.write_all(&bytes).unwrap();
    let mut answers = String::new();
    let mut buffer = [0; 4096];
    while !answers.contains("pong") {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "{answers}");
        answers += &String::from_utf8_lossy(&buffer[..count]);
    }
    assert_eq!(answers.matches("unsupported").count(), 2, "{answers}");
    assert_eq!(agent.list(), []);
}

#[test]
fn sessions_get_the_vms_environment_beneath_their_own_and_over_reboots() {
    let mut agent = Agent::start();
    agent
        .set_environment(&[("A", "vm"), ("B", "vm"), ("PATH", "/nowhere:/bin:/usr/bin")])
        .unwrap();
    let mut spec = sh("first", "echo $A $B $PATH");
    spec.env = vec![("B".to_owned(), "own".to_owned())];
    agent.begin(spec.clone()).unwrap();
    let said = "vm own /nowhere:/bin:/usr/bin\n";
    assert_eq!(agent.output("first", None), said);
    // Names of its own are shown, those of the VM are not its.
    assert_eq!(agent.show("first").env, ["B"]);
    agent.reboot();
    spec.name = Some(name("second"));
    agent.begin(spec).unwrap();
    assert_eq!(agent.output("second", None), said);
    agent.set_environment(&[]).unwrap();
    agent.begin(sh("third", "echo ${A-unset}")).unwrap();
    assert_eq!(agent.output("third", None), "unset\n");
    let stored = std::fs::read(agent.folder.path().join("sessions/first/session.json")).unwrap();
    assert!(!String::from_utf8(stored).unwrap().contains("/nowhere"));
}
