//! What generation 4 added: sessions and forwarding.

use banger_guest_proto::{
    AgentError, AgentErrorCode, AgentMessage, AttachRequest, ClientMessage, ExitStatus,
    ForwardReply, ForwardRequest, LogExtent, LogStart, LogsRequest, RestartPolicy, SessionInfo,
    SessionName, SessionReply, SessionRequest, SessionSpec, SessionState, StdinMode, Stream,
    TtySize,
};

fn name() -> SessionName {
    "web".parse().unwrap()
}

fn info(state: SessionState) -> SessionInfo {
    SessionInfo {
        name: name(),
        argv: vec!["serve".to_owned(), "-v".to_owned()],
        cwd: "/root".to_owned(),
        env: vec!["TOKEN".to_owned()],
        stdin_mode: StdinMode::Pipe,
        restart: RestartPolicy::OnFailure,
        on_boot: true,
        state,
        started_ms: 1_790_000_000_000,
        ended_ms: None,
        runs: 1,
        attached: false,
        log: LogExtent {
            first: 1,
            end: 9,
            taken: 4,
        },
    }
}

fn requests() -> Vec<SessionRequest> {
    let logs = |from, stream, follow| {
        SessionRequest::Logs(LogsRequest {
            name: name(),
            from,
            stream,
            follow,
        })
    };
    vec![
        SessionRequest::Start(SessionSpec {
            argv: vec!["true".to_owned()],
            ..SessionSpec::default()
        }),
        SessionRequest::Start(SessionSpec {
            name: Some(name()),
            argv: vec!["serve".to_owned()],
            env: vec![("TOKEN".to_owned(), "s".to_owned())],
            cwd: Some("/srv".to_owned()),
            stdin_mode: StdinMode::Pty,
            require: vec!["git".to_owned()],
            restart: RestartPolicy::OnFailure,
            on_boot: true,
            log_bytes: Some(4 << 20),
            tty: Some(TtySize { rows: 24, cols: 80 }),
            term: Some("xterm".to_owned()),
            replace: true,
        }),
        SessionRequest::List,
        SessionRequest::Show { name: name() },
        SessionRequest::Stop {
            name: name(),
            grace_ms: 10_000,
        },
        SessionRequest::Kill {
            name: name(),
            signal: 9,
        },
        SessionRequest::Delete { name: name() },
        logs(LogStart::Oldest, None, false),
        logs(LogStart::At(7), Some(Stream::Stderr), true),
        logs(LogStart::Last(9), Some(Stream::Stdout), false),
        SessionRequest::Attach(AttachRequest {
            name: name(),
            from: LogStart::Untaken,
            take_over: true,
            tty: Some(TtySize { rows: 24, cols: 80 }),
        }),
        SessionRequest::Attach(AttachRequest {
            name: name(),
            from: LogStart::Newest,
            take_over: false,
            tty: None,
        }),
    ]
}

fn replies() -> Vec<SessionReply> {
    let failed = ExitStatus::Code(1);
    vec![
        SessionReply::Started(info(SessionState::Running { pid: 42 })),
        SessionReply::List {
            sessions: vec![info(SessionState::Cut)],
        },
        SessionReply::Info(info(SessionState::Restarting { status: failed })),
        SessionReply::Info(info(SessionState::Failed {
            why: "gone".to_owned(),
        })),
        SessionReply::Deleted,
        SessionReply::Log { from: 1 },
        SessionReply::Gap { from: 1, to: 5 },
        SessionReply::LogEnd { next: 9 },
        SessionReply::Attached {
            info: info(SessionState::Running { pid: 42 }),
            from: 1,
            input_taken: 3,
        },
        SessionReply::Restarted { runs: 2 },
        SessionReply::TakenOver,
        SessionReply::Ended(info(SessionState::Ended {
            status: ExitStatus::Signal(15),
            asked: true,
        })),
    ]
}

pub(crate) fn surface() -> Vec<String> {
    let forwards = [
        ForwardRequest::Connect { port: 80 },
        ForwardRequest::Listen { port: 0 },
        ForwardRequest::ListenSshAgent,
        ForwardRequest::Claim { token: 7 },
    ];
    let requests = requests().into_iter().map(ClientMessage::Session);
    let client = requests.chain(forwards.map(ClientMessage::Forward));
    let client = client.map(|message| {
        let json = serde_json::to_string(&message).unwrap();
        let again = serde_json::from_str::<ClientMessage>(&json).unwrap();
        assert_eq!(again, message, "{json}");
        format!("4 client {json}")
    });
    let forwards = [
        ForwardReply::Connected,
        ForwardReply::Listening {
            at: "8080".to_owned(),
        },
        ForwardReply::Accepted { token: 7 },
    ];
    let errors = [
        AgentErrorCode::NotFound,
        AgentErrorCode::NameTaken,
        AgentErrorCode::Busy,
    ];
    let errors = errors.map(|code| {
        AgentMessage::Error(AgentError {
            code,
            message: "m".to_owned(),
            hint: None,
        })
    });
    let replies = replies().into_iter().map(AgentMessage::Session);
    let agent = replies
        .chain(forwards.map(AgentMessage::Forward))
        .chain(errors);
    let agent = agent.map(|message| {
        let json = serde_json::to_string(&message).unwrap();
        let again = serde_json::from_str::<AgentMessage>(&json).unwrap();
        assert_eq!(again, message, "{json}");
        format!("4 agent {json}")
    });
    client.chain(agent).collect()
}

#[test]
fn a_name_cannot_leave_its_folder() {
    for good in ["web", "a", "9.b_c-D", &"x".repeat(63)] {
        assert_eq!(good.parse::<SessionName>().unwrap().as_str(), good);
    }
    let long = "x".repeat(64);
    for bad in ["", ".", "..", "-a", "a/b", "a b", "ü", "a\n", &long] {
        assert!(bad.parse::<SessionName>().is_err(), "{bad}");
        let json = serde_json::to_string(bad).unwrap();
        assert!(serde_json::from_str::<SessionName>(&json).is_err());
    }
    for program in ["/usr/bin/make", "../..", "", "-", "ü.sh", &"y".repeat(200)] {
        let name = SessionName::of_program(program);
        assert_eq!(name.as_str().parse(), Ok(name.clone()));
        let numbered = name.numbered(4_000_000_000);
        assert_eq!(numbered.as_str().parse(), Ok(numbered));
    }
    assert_eq!(SessionName::of_program("/usr/bin/make").as_str(), "make");
}
