//! The daemon: started by whoever comes first, replaced by a newer build, careful with what is not its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use banger_e2e::{Banger, Elsewhere, SMALL, until};

const PATIENCE: Duration = Duration::from_secs(60);

fn daemon_pid(banger: &Banger) -> u64 {
    banger.json(&["daemon", "status"])["version"]["daemon"]["pid"]
        .as_u64()
        .unwrap()
}

#[test]
fn clients_that_come_at_once_start_one_daemon() {
    let elsewhere = Elsewhere::new();
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let mut command = elsewhere.command(&["daemon", "start", "-o", "json"]);
            command
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut pids = std::collections::BTreeSet::new();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success());
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        pids.insert(status["version"]["daemon"]["pid"].as_u64().unwrap());
    }
    assert_eq!(pids.len(), 1, "{pids:?}");
}

#[test]
fn the_socket_of_a_dead_daemon_is_taken_over() {
    let banger = Banger::from_env();
    banger.ok(&["daemon", "start"]);
    let pid = i32::try_from(daemon_pid(&banger)).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let socket = banger.ok(&["daemon", "socket"]);
    assert!(Path::new(socket.trim()).exists(), "it left its socket");
    banger.ok(&["vm", "list"]);
}

#[test]
fn a_create_is_followed_to_its_end_though_the_daemon_is_killed() {
    let banger = Banger::from_env();
    banger.ok(&["daemon", "start"]);
    let mut create = banger.command(&["vm", "create", "--name", "survivor"]);
    create.args(SMALL);
    create.stdout(std::process::Stdio::piped());
    create.stderr(std::process::Stdio::piped());
    let create = create.spawn().unwrap();
    until("the guest boots", PATIENCE, || {
        let all = banger.json(&["vm", "list"])["vms"].clone();
        all[0]["vmm_pid"].is_u64()
    });
    let killed = daemon_pid(&banger);
    let pid = rustix::process::Pid::from_raw(i32::try_from(killed).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let ended = create.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{ended:?}");
    assert!(said.contains("survivor is running"), "{ended:?}");
    assert_ne!(daemon_pid(&banger), killed);
    banger.ok(&["vm", "exec", "survivor", "--", "true"]);
    banger.ok(&["vm", "delete", "survivor"]);
}

/// Kills the process that `daemon status` has there.
fn kill(banger: &Banger, program: &str) {
    let status = banger.json(&["daemon", "status"]);
    let Some(pid) = status["version"][program]["pid"].as_i64() else {
        return;
    };
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

#[test]
fn a_start_is_followed_to_its_end_though_helper_and_daemon_are_killed_twice() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    banger.ok(&["vm", "stop", &vm.name]);
    let mut start = banger.command(&["vm", "start", "--wait", "reachable", &vm.name]);
    start.stdout(std::process::Stdio::piped());
    start.stderr(std::process::Stdio::piped());
    let start = start.spawn().unwrap();
    until("the guest boots", PATIENCE, || {
        vm.show()["vmm_pid"].is_u64()
    });
    let first = daemon_pid(&banger);
    kill(&banger, "helper");
    kill(&banger, "daemon");
    // Who waits starts both again; nobody else does.
    until("there is another daemon", PATIENCE, || {
        let status = banger.run(&["daemon", "status", "-o", "json"]);
        status.code == 0 && !status.stdout.contains(&format!("\"pid\": {first}"))
    });
    kill(&banger, "helper");
    let ended = start.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(vm.sh("echo there"), "there");
}

#[test]
fn an_older_build_is_replaced_and_its_vms_go_on() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let (daemon, vmm) = (daemon_pid(&banger), vm.show()["vmm_pid"].clone());
    // A build of its own: the same programs as other files.
    let build = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &str| {
        let to = build.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    for program in ["banger", "bangerd", "bangerd-root", "banger-vhost-vsock"] {
        copy(&banger.program(program), &format!("bin/{program}"));
    }
    for program in ["banger-vsock-agent", "banger-sshd"] {
        let program = format!("lib/banger/{program}");
        copy(&banger.program(&format!("../{program}")), &program);
    }
    let other = Command::new(build.path().join("bin/banger"))
        .args(["vm", "exec", &vm.name, "--", "echo", "still here"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&other.stdout),
        "still here\n",
        "{other:?}"
    );
    assert_ne!(daemon_pid_of(&build.path().join("bin/banger")), daemon);
    // And back: this build's client replaces the other's daemon again.
    assert_eq!(vm.show()["vmm_pid"], vmm);
    assert_eq!(vm.sh("echo still here"), "still here");
}

fn daemon_pid_of(program: &Path) -> u64 {
    let output = Command::new(program)
        .args(["daemon", "status", "-o", "json"])
        .output()
        .unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["version"]["daemon"]["pid"].as_u64().unwrap()
}

/// Answers every request on the socket with that version.
fn daemon_of_another_time(socket: &Path, version: &str) {
    let listener = UnixListener::bind(socket).unwrap();
    let body = version.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            let _ = write!(
                stream,
                "{head}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
}

#[test]
fn a_newer_or_incompatible_daemon_is_an_error_that_says_so() {
    for (version, api, says) in [("99.0.0", 1, "newer"), ("0.0.1", 77, "API 77")] {
        let elsewhere = Elsewhere::new();
        let socket = elsewhere.path("run/banger/bangerd.sock");
        fs::create_dir(socket.parent().unwrap()).unwrap();
        let body = serde_json::json!({
            "api_min": api, "api_max": api,
            "daemon": { "version": version, "build": "x", "pid": 1 },
            "helper": { "available": true, "version": version, "pid": 1, "socket": "x", "problem": null },
        });
        daemon_of_another_time(&socket, &body.to_string());
        let finished = elsewhere.run(&["vm", "list"]);
        assert_ne!(finished.code, 0);
        assert!(finished.stderr.contains(says), "{}", finished.stderr);
        assert!(
            finished.stderr.contains("version_mismatch"),
            "{}",
            finished.stderr
        );
        assert!(finished.stderr.contains("hint:"), "{}", finished.stderr);
    }
}

#[test]
fn what_answers_but_is_no_daemon_is_an_error() {
    let elsewhere = Elsewhere::new();
    let socket = elsewhere.path("run/banger/bangerd.sock");
    fs::create_dir(socket.parent().unwrap()).unwrap();
    daemon_of_another_time(&socket, "not json");
    let finished = elsewhere.run(&["vm", "list"]);
    assert_ne!(finished.code, 0);
    assert!(
        finished.stderr.contains("does not understand"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_runtime_folder_of_another_user_is_refused() {
    let elsewhere = Elsewhere::new();
    let folder = elsewhere.path("run/banger");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(12_345), Some(12_345)).unwrap();
    let finished = elsewhere.run(&["vm", "list"]);
    assert_ne!(finished.code, 0);
    assert!(
        finished.stderr.contains("another user"),
        "{}",
        finished.stderr
    );
    assert!(
        finished.stderr.contains("XDG_RUNTIME_DIR"),
        "{}",
        finished.stderr
    );
}

#[test]
fn another_user_cannot_use_the_owners_socket() {
    let banger = Banger::from_env();
    let socket = banger.ok(&["daemon", "socket"]);
    banger.ok(&["daemon", "start"]);
    // Even with every permission on the way there, the peer's uid decides.
    let folder = Path::new(socket.trim()).parent().unwrap().to_owned();
    let open = |mode: [u32; 2]| {
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode[0])).unwrap();
        fs::set_permissions(socket.trim(), fs::Permissions::from_mode(mode[1])).unwrap();
    };
    let ask = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
               s.sendall(b'GET /v1/vms HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')\nprint(len(s.recv(100)))";
    let stranger = |uid: &str| {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            uid,
            "--clear-groups",
            "python3",
            "-c",
            ask,
            socket.trim(),
        ]);
        command.output().unwrap()
    };
    open([0o755, 0o666]);
    // The folders above are the test's own: reachable for a stranger only where they are.
    let reached = stranger("0");
    let refused = stranger("12345");
    open([0o700, 0o600]);
    assert_ne!(
        String::from_utf8_lossy(&reached.stdout).trim(),
        "0",
        "{reached:?}"
    );
    let answer = String::from_utf8_lossy(&refused.stdout);
    assert!(
        !refused.status.success() || answer.trim() == "0",
        "{refused:?}"
    );
}

#[test]
fn a_bad_configuration_stops_the_daemon_with_file_line_and_the_nearest_key() {
    for (text, says) in [
        ("default_image = \"x\"\n", "default_image_name"),
        ("[vm_defaults]\nvcpu = \"two\"\n", "line 2"),
        ("cidr = \"here\"\n", "no IPv4 subnet"),
        ("bridge_ip = \"10.0.0.1\"\n", "is not the address of a host"),
        ("= nonsense", "line 1"),
    ] {
        let elsewhere = Elsewhere::new();
        fs::write(elsewhere.path("config/banger/config.toml"), text).unwrap();
        let finished = elsewhere.run(&["vm", "list"]);
        assert_ne!(finished.code, 0, "{text}");
        assert!(
            finished.stderr.contains(says),
            "{text}: {}",
            finished.stderr
        );
        assert!(
            finished.stderr.contains("config.toml"),
            "{text}: {}",
            finished.stderr
        );
        assert!(
            !elsewhere.path("run/banger/bangerd.sock").exists(),
            "{text}"
        );
    }
}

#[test]
fn without_permission_for_the_helper_the_error_says_what_to_do() {
    let elsewhere = Elsewhere::new();
    for folder in ["config", "config/banger", "run", ""] {
        std::os::unix::fs::chown(elsewhere.path(folder), Some(12_345), Some(12_345)).unwrap();
    }
    // The programs as that user can reach them, and a sudo that would ask for a password.
    let programs = elsewhere.path("programs");
    fs::create_dir_all(programs.join("bin")).unwrap();
    for program in ["banger", "bangerd", "bangerd-root", "banger-vhost-vsock"] {
        fs::copy(
            elsewhere.banger().program(program),
            programs.join("bin").join(program),
        )
        .unwrap();
    }
    fs::write(
        programs.join("bin/sudo"),
        "#!/bin/sh\necho 'a password is required' >&2\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(programs.join("bin/sudo"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = elsewhere.command(&[]);
    let env: Vec<_> = command
        .get_envs()
        .map(|(k, v)| (k.to_owned(), v.unwrap().to_owned()))
        .collect();
    command = Command::new("/usr/bin/setpriv");
    command
        .args(["--reuid", "12345", "--clear-groups"])
        .arg(programs.join("bin/banger"));
    command
        .args(["vm", "create"])
        .envs(env)
        .env("PATH", programs.join("bin"));
    let finished: banger_e2e::Finished = command.output().unwrap().into();
    assert_ne!(finished.code, 0);
    assert!(
        finished.stderr.contains("helper_unavailable"),
        "{}",
        finished.stderr
    );
    assert!(
        finished.stderr.contains("banger daemon start"),
        "{}",
        finished.stderr
    );
}

/// What the shell's script asks the program for, with the cursor after the last word.
fn completed(mut command: Command, words: &[&str]) -> banger_e2e::Finished {
    command
        .arg("--")
        .args(words)
        .env("COMPLETE", "bash")
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "true")
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    command.output().unwrap().into()
}

#[test]
fn live_names_are_completed_and_without_a_daemon_nothing_is_said_or_started() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--no-start", "--image", "debian-minimal"]);
    let kernels = banger.json(&["kernel", "list"]);
    let kernel = kernels["kernels"][0]["name"].as_str().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["banger", "vm", "show", &vm.name[..2]], &vm.name),
        (&["banger", "vm", "stop", "x", ""], &vm.name),
        (
            &["banger", "vm", "run", "--image", "debian-m"],
            "debian-minimal",
        ),
        (&["banger", "image", "show", ""], "debian-bookworm"),
        (&["banger", "kernel", "show", &kernel[..1]], kernel),
        (&["banger", "vm", "del"], "delete"),
    ];
    for (words, offered) in cases {
        let said = completed(banger.command::<&str>(&[]), words);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{words:?}");
        assert!(
            said.stdout.lines().any(|line| line == *offered),
            "{words:?}: {}",
            said.stdout
        );
    }
    let elsewhere = Elsewhere::new();
    for words in [
        &["banger", "vm", "show", ""][..],
        &["banger", "kernel", "show", "6"],
    ] {
        let said = completed(elsewhere.command(&[]), words);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{words:?}");
        let names = said.stdout.lines().filter(|line| !line.starts_with('-'));
        assert_eq!(names.count(), 0, "{words:?}: {}", said.stdout);
    }
    assert!(
        !elsewhere.path("run/banger").exists(),
        "something was started"
    );
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = elsewhere.run(&["completion", shell]);
        assert_eq!(script.code, 0);
        assert!(
            script.stdout.contains("COMPLETE"),
            "{shell}: {}",
            script.stdout
        );
    }
}

/// Asks the owner API, and gives the reply's body.
fn api(socket: &str, request: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json"
    );
    write!(
        stream,
        "{head}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 20"), "{reply}");
    // One chunk, or none: the replies here are short.
    match head.contains("chunked") {
        true => body
            .lines()
            .filter(|line| line.starts_with('{'))
            .collect::<Vec<_>>()
            .join("\n"),
        false => body.to_owned(),
    }
}

#[test]
fn an_operation_is_told_again_after_the_daemons_death() {
    let banger = Banger::from_env();
    banger.ok(&["daemon", "start"]);
    let socket = banger.ok(&["daemon", "socket"]);
    let socket = socket.trim();
    let request = r#"{"name":"told-again","image":"debian-minimal","no_start":true}"#;
    let begun: serde_json::Value =
        serde_json::from_str(&api(socket, "POST /v1/vms", request)).unwrap();
    let id = begun["id"].as_str().unwrap();
    let ask = || -> serde_json::Value {
        serde_json::from_str(&api(socket, &format!("GET /v1/operations/{id}"), "")).unwrap()
    };
    // The stream ends with the operation.
    api(socket, &format!("GET /v1/operations/{id}/events"), "");
    let before = ask();
    assert_eq!(before["state"], "succeeded");
    assert!(before["stages"].as_array().unwrap().len() >= 4, "{before}");
    banger.ok(&["vm", "show", "told-again"]);
    let pid = i32::try_from(daemon_pid(&banger)).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    banger.ok(&["vm", "list"]);
    assert_ne!(
        daemon_pid(&banger),
        u64::from(pid.as_raw_nonzero().get().unsigned_abs())
    );
    assert_eq!(ask(), before);
    let events = api(socket, &format!("GET /v1/operations/{id}/events"), "");
    assert!(
        events.lines().last().unwrap().contains("\"finished\""),
        "{events}"
    );
    banger.ok(&["vm", "delete", "told-again"]);
}
