//! The client against a socket that answers as it is told.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_core::{MemoryMib, VmId};
use banger_vmm::firecracker::{
    BootStage, FirecrackerClient, FirecrackerError, InstanceState, MicroVm, Request, VmStateChange,
    boot, has_guest, instance_state,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const VM: &str = "0123456789ab";
const SOON: Duration = Duration::from_secs(20);

fn vm() -> VmId {
    VM.parse().unwrap()
}

/// Answers each request with what `answer` gives for its first line: the status line and the body, or
/// None to hang up. What was asked can be read afterwards.
fn serve(
    socket: &Path,
    answer: impl Fn(&str) -> Option<(&'static str, String)> + Send + Sync + Clone + 'static,
) -> UnboundedReceiver<String> {
    let listener = UnixListener::bind(socket).unwrap();
    let (tell, told) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tell, answer) = (tell.clone(), answer.clone());
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(line) = read_request(&mut stream).await {
                    let reply = answer(&line);
                    let _ = tell.send(line);
                    let Some((status, body)) = reply else { return };
                    let head = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    stream.write_all(head.as_bytes()).await.unwrap();
                    stream.write_all(body.as_bytes()).await.unwrap();
                }
            });
        }
    });
    told
}

/// Method and path, and the body after them; None at the end.
async fn read_request(stream: &mut BufReader<UnixStream>) -> Option<String> {
    let mut first = String::new();
    stream
        .read_line(&mut first)
        .await
        .ok()
        .filter(|count| *count > 0)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let name = first.rsplit_once(' ').unwrap().0;
    Some(format!("{name} {}", String::from_utf8(body).unwrap()))
}

fn info(id: &str, state: &str) -> String {
    format!(r#"{{"id":"{id}","state":"{state}","vmm_version":"1.16.1","app_name":"Firecracker"}}"#)
}

const OK: &str = "200 OK";
const DONE: &str = "204 No Content";

fn good(line: &str) -> Option<(&'static str, String)> {
    Some(match line.trim() {
        "GET /version" => (OK, r#"{"firecracker_version":"1.16.1"}"#.into()),
        "GET /" => (OK, info(VM, "Not started")),
        _ => (DONE, String::new()),
    })
}

struct Place {
    _dir: tempfile::TempDir,
    socket: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    // Longer than the address of a socket may be.
    let folder = dir.path().join("x".repeat(120));
    std::fs::create_dir(&folder).unwrap();
    let short = dir.path().join("s");
    symlink(&folder, &short).unwrap();
    Place {
        socket: short.join("api"),
        _dir: dir,
    }
}

fn micro_vm() -> MicroVm {
    MicroVm {
        vm: vm(),
        vcpu: 1,
        memory: MemoryMib(128),
        boot_args: "quiet".into(),
        drives: vec![],
        mac: None,
        ephemeral: true,
    }
}

#[tokio::test]
async fn a_guest_is_configured_and_started_last() {
    let place = place();
    let mut told = serve(&place.socket, good);
    let long = std::fs::canonicalize(place.socket.parent().unwrap()).unwrap();
    boot(&long.join("api"), &micro_vm()).await.unwrap();
    let mut lines = vec![];
    while let Ok(line) = told.try_recv() {
        lines.push(line);
    }
    assert_eq!(lines[..2], ["GET /version ", "GET / "]);
    assert!(lines[2].starts_with("PUT /machine-config {\"vcpu_count\":1"));
    let last = lines.last().unwrap();
    assert_eq!(last, "PUT /actions {\"action_type\":\"InstanceStart\"}");
}

#[tokio::test]
async fn the_socket_may_come_late() {
    let place = place();
    let socket = place.socket.clone();
    let booting = tokio::spawn(async move { boot(&socket, &micro_vm()).await });
    // It has looked for the socket at least once by the time a later task has run.
    tokio::task::yield_now().await;
    let _told = serve(&place.socket, good);
    booting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_says_which_request_and_why() {
    let place = place();
    let _told = serve(&place.socket, |line| match line {
        line if line.starts_with("PUT /boot-source") => Some((
            "400 Bad Request",
            r#"{"fault_message":"The kernel file cannot be opened"}"#.into(),
        )),
        line => good(line),
    });
    let error = boot(&place.socket, &micro_vm()).await.unwrap_err();
    assert_eq!(error.stage, BootStage::Configure);
    assert_eq!(
        error.source.to_string(),
        "Firecracker refused `PUT /boot-source` (400): The kernel file cannot be opened"
    );
}

#[tokio::test]
async fn a_start_that_kills_it_and_a_start_that_is_refused_are_told_apart() {
    for answer in [None, Some(("400 Bad Request", String::new()))] {
        let place = place();
        let hangs_up = answer.is_none();
        let _told = serve(&place.socket, move |line| match line {
            line if line.starts_with("PUT /actions") => answer.clone(),
            line => good(line),
        });
        let error = boot(&place.socket, &micro_vm()).await.unwrap_err();
        assert_eq!(error.stage, BootStage::Start);
        let gone = matches!(error.source, FirecrackerError::Gone { .. });
        let fault = matches!(error.source, FirecrackerError::Fault { status: 400, .. });
        assert_eq!((gone, fault), (hangs_up, !hangs_up), "{error:?}");
    }
}

#[tokio::test]
async fn another_version_and_another_vm_are_refused_before_anything_is_configured() {
    let versions = ["1.13.2", "2.0.0", "nonsense"];
    for version in versions {
        let place = place();
        let mut told = serve(&place.socket, move |line| match line.trim() {
            "GET /version" => Some((OK, format!(r#"{{"firecracker_version":"{version}"}}"#))),
            _ => good(line),
        });
        let error = boot(&place.socket, &micro_vm()).await.unwrap_err();
        assert_eq!(error.stage, BootStage::Api);
        assert!(matches!(error.source, FirecrackerError::Version { .. }));
        assert_eq!(told.recv().await.unwrap(), "GET /version ");
        assert!(told.try_recv().is_err());
    }
    let place = place();
    let _told = serve(&place.socket, |line| match line.trim() {
        "GET /" => Some((OK, info("another", "Not started"))),
        _ => good(line),
    });
    let error = boot(&place.socket, &micro_vm()).await.unwrap_err();
    assert!(matches!(error.source, FirecrackerError::Identity { .. }));
}

#[tokio::test]
async fn what_lives_has_a_guest_or_not() {
    let mut seen = vec![];
    for state in ["Not started", "Running", "Paused", "Confused"] {
        let place = place();
        let _told = serve(&place.socket, move |_| Some((OK, info(VM, state))));
        let answer = instance_state(&place.socket, &vm(), SOON).await;
        seen.push((answer.as_ref().ok().copied(), has_guest(&answer)));
    }
    let expected = [
        (Some(InstanceState::NotStarted), false),
        (Some(InstanceState::Running), true),
        (Some(InstanceState::Paused), true),
        (None, false),
    ];
    assert_eq!(seen, expected);
    let place = place();
    let _told = serve(&place.socket, |_| Some((OK, info("another", "Running"))));
    assert!(!has_guest(
        &instance_state(&place.socket, &vm(), SOON).await
    ));
}

#[tokio::test]
async fn one_that_does_not_answer_is_taken_to_be_stopped_with_a_guest_in_it() {
    let place = place();
    // It listens, and nobody accepts.
    let _listener = UnixListener::bind(&place.socket).unwrap();
    let answer = instance_state(&place.socket, &vm(), Duration::from_millis(50)).await;
    assert!(
        matches!(answer, Err(FirecrackerError::Timeout { .. })),
        "{answer:?}"
    );
    assert!(has_guest(&answer));
}

#[tokio::test]
async fn no_socket_a_stale_one_and_something_else_are_told_apart() {
    let place = place();
    let connect = async || {
        FirecrackerClient::connect(&place.socket, SOON)
            .await
            .unwrap_err()
    };
    assert!(matches!(connect().await, FirecrackerError::NoSocket { .. }));
    drop(UnixListener::bind(&place.socket).unwrap());
    assert!(matches!(
        connect().await,
        FirecrackerError::StaleSocket { .. }
    ));
    std::fs::remove_file(&place.socket).unwrap();
    std::fs::write(&place.socket, "").unwrap();
    assert!(matches!(connect().await, FirecrackerError::Connect { .. }));
    // A link to another VM's socket.
    std::fs::remove_file(&place.socket).unwrap();
    let other = place.socket.with_file_name("other");
    let mut told = serve(&other, good);
    symlink(&other, &place.socket).unwrap();
    assert!(matches!(connect().await, FirecrackerError::Connect { .. }));
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn answers_are_not_trusted() {
    let change = Request::VmStateChange(VmStateChange::Paused);
    for (status, body) in [
        (OK, "x".repeat(1 << 20)),
        ("500 Internal Server Error", "\u{1b}[2J".repeat(10_000)),
        ("302 Found", String::new()),
    ] {
        let place = place();
        let _told = serve(&place.socket, move |_| Some((status, body.clone())));
        let mut client = FirecrackerClient::connect(&place.socket, SOON)
            .await
            .unwrap();
        let error = client.send(&change).await.unwrap_err().to_string();
        assert!(error.len() < 600 && !error.contains('\u{1b}'), "{error}");
        assert!(error.contains("PATCH /vm"), "{error}");
    }
    let place = place();
    let _told = serve(&place.socket, |_| Some((OK, "[]".into())));
    let mut client = FirecrackerClient::connect(&place.socket, SOON)
        .await
        .unwrap();
    let error = client.instance().await.unwrap_err();
    assert!(matches!(error, FirecrackerError::Answer { .. }));
}
