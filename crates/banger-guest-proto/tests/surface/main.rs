//! The wire's surface, rendered. Lines of `surface.txt` are added, never changed: an agent that
//! was built with them may still run somewhere.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use banger_guest_proto::{
    AgentError, AgentErrorCode, AgentMessage, ClientMessage, ExecRequest, ExitStatus, Figures,
    FileProblem, FileSystem, FilesDone, GetFiles, GetPaths, GuestConfig, Hello, InitKind, Listener,
    Listeners, PutFiles, Readiness, ShutdownVerb, SshHostKey, Status, Stream, Transport, TtySize,
    WirePath, decode, encode,
};

mod sessions;

fn hello() -> Hello {
    Hello {
        generation: 1,
        version: "0.1.0".to_owned(),
    }
}

fn config() -> GuestConfig {
    GuestConfig {
        generation: 1,
        vm_id: "0123456789ab".parse().unwrap(),
        hostname: "demo".parse().unwrap(),
        domain: "vm".to_owned(),
        machine_id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        address: [172, 16, 0, 2].into(),
        prefix: 24,
        gateway: [172, 16, 0, 1].into(),
        mac: "06:01:23:45:67:89".parse().unwrap(),
        resolvers: vec![[172, 16, 0, 1].into()],
        ssh_host_key: Some(SshHostKey {
            private: "PRIVATE\n".to_owned(),
            public: "ssh-ed25519 AAAA banger".to_owned(),
        }),
        authorized_keys: vec!["ssh-ed25519 BBBB owner".to_owned()],
        kernel_release: Some("6.1.0-banger".to_owned()),
        time_unix_ns: 1_790_000_000_000_000_000,
    }
}

fn surface() -> Vec<String> {
    let mut lines = vec![];
    let client = [
        ClientMessage::Hello(hello()),
        ClientMessage::Ping,
        ClientMessage::Status,
        ClientMessage::Wait {
            readiness: Readiness::Reachable,
        },
        ClientMessage::Wait {
            readiness: Readiness::Ready,
        },
        ClientMessage::Exec(ExecRequest::new(["true"])),
        ClientMessage::Exec(ExecRequest {
            argv: vec!["sh".to_owned()],
            env: vec![("A".to_owned(), "b".to_owned())],
            cwd: Some("/tmp".to_owned()),
            cwd_among: vec![],
            user: Some("nobody".to_owned()),
            tty: Some(TtySize { rows: 24, cols: 80 }),
            term: Some("xterm".to_owned()),
            no_stdin: true,
            own: false,
        }),
        ClientMessage::StdinEof,
        ClientMessage::Resize(TtySize {
            rows: 50,
            cols: 120,
        }),
        ClientMessage::Signal { number: 2 },
        ClientMessage::CloseOutput {
            stream: Stream::Stdout,
        },
        ClientMessage::Shutdown {
            verb: ShutdownVerb::Poweroff,
        },
        ClientMessage::Shutdown {
            verb: ShutdownVerb::Reboot,
        },
    ];
    lines.extend(client.iter().map(|m| {
        let json = serde_json::to_string(m).unwrap();
        assert_eq!(&serde_json::from_str::<ClientMessage>(&json).unwrap(), m);
        format!("1 client {json}")
    }));
    let agent = [
        AgentMessage::Hello(hello()),
        AgentMessage::Pong,
        AgentMessage::Status(Status {
            readiness: Readiness::Booting,
            uptime_ms: 1234,
            hostname: "demo".to_owned(),
            init: InitKind::Systemd,
            sessions: 2,
            problems: vec!["no work disk".to_owned()],
        }),
        AgentMessage::ExecStarted { pid: 42 },
        AgentMessage::StdoutEof,
        AgentMessage::StderrEof,
        AgentMessage::Exited(ExitStatus::Code(7)),
        AgentMessage::Exited(ExitStatus::Signal(9)),
        AgentMessage::ShuttingDown,
        AgentMessage::Error(AgentError {
            code: AgentErrorCode::CommandNotFound,
            message: "there is no `x`".to_owned(),
            hint: Some("install it".to_owned()),
        }),
    ];
    lines.extend(agent.iter().map(|m| {
        let json = serde_json::to_string(m).unwrap();
        assert_eq!(&serde_json::from_str::<AgentMessage>(&json).unwrap(), m);
        format!("1 agent {json}")
    }));
    let config = serde_json::to_string(&config()).unwrap();
    lines.push(format!("1 config {config}"));
    lines.extend(second_generation());
    lines.extend(files());
    lines.extend(sessions::surface());
    lines.extend(environment());
    lines
}

fn second_generation() -> Vec<String> {
    let mut lines = vec![];
    for message in [ClientMessage::Listeners, ClientMessage::Figures] {
        assert_eq!(message.generation(), 2);
        let json = serde_json::to_string(&message).unwrap();
        assert_eq!(
            serde_json::from_str::<ClientMessage>(&json).unwrap(),
            message
        );
        lines.push(format!("2 client {json}"));
    }
    let answers = [
        AgentMessage::Listeners(Listeners {
            listeners: vec![
                Listener {
                    transport: Transport::Tcp,
                    address: "::".parse().unwrap(),
                    port: 8080,
                    uid: 1000,
                    user: Some("me".to_owned()),
                    pid: Some(42),
                    process: Some("node".to_owned()),
                },
                Listener {
                    transport: Transport::Udp,
                    address: "127.0.0.1".parse().unwrap(),
                    port: 53,
                    uid: 7,
                    user: None,
                    pid: None,
                    process: None,
                },
            ],
            cut: true,
        }),
        AgentMessage::Figures(Figures {
            uptime_ms: 1,
            cpus: 2,
            cpu_busy_ms: 3,
            cpu_steal_ms: 4,
            load_centi: 5,
            memory_total: 6,
            memory_available: 7,
            processes: 8,
            network_received: 9,
            network_sent: 10,
            file_systems: vec![FileSystem {
                path: "/".to_owned(),
                total: 11,
                used: 12,
            }],
        }),
    ];
    for message in answers {
        let json = serde_json::to_string(&message).unwrap();
        assert_eq!(
            serde_json::from_str::<AgentMessage>(&json).unwrap(),
            message
        );
        lines.push(format!("2 agent {json}"));
    }
    lines
}

/// What generation 3 added.
fn files() -> Vec<String> {
    let path = |bytes: &[u8]| WirePath(bytes.to_vec());
    let client = [
        ClientMessage::GetFiles(GetFiles {
            sources: vec![path(b"/etc"), path(b"odd%\xff")],
        }),
        ClientMessage::GetPaths(GetPaths {
            base: path(b"/root/repo"),
            content: true,
            recursive: true,
        }),
        ClientMessage::PutFiles(PutFiles {
            target: path(b"~/x"),
            into: true,
            file: true,
            exact: true,
        }),
    ];
    let agent = [AgentMessage::FilesDone(FilesDone {
        files: 3,
        bytes: 1024,
        problems: vec![FileProblem {
            path: "a".to_owned(),
            what: "permission denied".to_owned(),
        }],
        more_problems: 1,
    })];
    let mut lines = vec![];
    for message in client {
        assert_eq!(message.generation(), 3);
        let json = serde_json::to_string(&message).unwrap();
        assert_eq!(
            serde_json::from_str::<ClientMessage>(&json).unwrap(),
            message
        );
        lines.push(format!("3 client {json}"));
    }
    for message in agent {
        let json = serde_json::to_string(&message).unwrap();
        assert_eq!(
            serde_json::from_str::<AgentMessage>(&json).unwrap(),
            message
        );
        lines.push(format!("3 agent {json}"));
    }
    lines
}

/// What generation 5 added.
fn environment() -> [String; 3] {
    let set = ClientMessage::SetEnvironment {
        variables: vec![("A".to_owned(), "b".to_owned())],
    };
    assert_eq!(set.generation(), 5);
    let own = ClientMessage::Exec(ExecRequest::own(["true"]));
    let client = [set, own].map(|message| {
        let json = serde_json::to_string(&message).unwrap();
        assert_eq!(
            serde_json::from_str::<ClientMessage>(&json).unwrap(),
            message
        );
        format!("5 client {json}")
    });
    let [set, own] = client;
    let is_set = serde_json::to_string(&AgentMessage::EnvironmentSet).unwrap();
    assert_eq!(
        serde_json::from_str::<AgentMessage>(&is_set).unwrap(),
        AgentMessage::EnvironmentSet
    );
    [set, own, format!("5 agent {is_set}")]
}

#[test]
fn the_surface_is_the_checked_in_one() {
    let rendered = surface().join("\n") + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/surface.txt");
    let known = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        rendered == known,
        "the wire has changed. Lines of {path} may only be added, with a raised generation; it \
         should read:\n{rendered}"
    );
}

#[test]
fn what_a_newer_peer_adds_is_ignored() {
    let ping = serde_json::from_str::<ClientMessage>(r#"{"type":"ping","since":2}"#);
    assert_eq!(ping.unwrap(), ClientMessage::Ping);
    let error = r#"{"type":"error","code":"from_the_future","message":"m","extra":1}"#;
    let AgentMessage::Error(error) = serde_json::from_str(error).unwrap() else {
        panic!("an error");
    };
    assert_eq!(error.code, AgentErrorCode::Unknown);
}

#[test]
fn a_config_drive_round_trips_and_is_whole_blocks() {
    let bytes = encode(&config());
    assert_eq!(bytes.len() % 4096, 0);
    assert_eq!(decode(&bytes).unwrap(), config());
    let mut longer = bytes.clone();
    longer.extend([1; 100]);
    assert_eq!(decode(&longer).unwrap(), config());
    let size = banger_guest_proto::encoded_size(&longer).unwrap();
    assert_eq!(size, bytes.len() as u64);
}

proptest::proptest! {
    #[test]
    fn a_damaged_config_drive_is_an_error_never_a_panic(
        at in 0_usize..800, value: u8, cut in 0_usize..4096,
    ) {
        let mut bytes = encode(&config());
        bytes[at] = value;
        let _ = decode(&bytes);
        let _ = decode(&bytes[..cut]);
    }
}
