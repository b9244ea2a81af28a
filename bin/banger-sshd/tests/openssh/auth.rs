//! Who gets in, and what ends.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::world::{World, bytes, run};

/// What a client is told that does not get in.
const DENIED: &str = "Permission denied (publickey)";

#[test]
fn the_owner_gets_in_and_no_other_key_or_user_does() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let finished = world.ssh(&["echo hi"]);
    assert_eq!(finished.text(), "hi\n", "{finished:?}");
    let ssh = |words: &[&str]| {
        let mut command = world.client("ssh");
        command.args(words).args(["guest", "echo in"]);
        run(&mut command, b"")
    };
    let stranger = world.path("stranger");
    let stranger = format!("IdentityFile={}", stranger.display());
    // The configuration's own key is not to be tried besides.
    let text = std::fs::read_to_string(world.path("config")).unwrap();
    let owner = world.path("owner").display().to_string();
    let config = text.replace(&format!("IdentityFile {owner}"), "");
    std::fs::write(world.path("config"), config).unwrap();
    let password = [
        "-o",
        "PreferredAuthentications=password,keyboard-interactive",
    ];
    for words in [
        &["-o", &stranger][..],
        &password,
        &["-i", &owner, "-l", "nobody-of-that-name"],
        &["-o", "PreferredAuthentications=none"],
    ] {
        let finished = ssh(words);
        assert_eq!(finished.status.code(), Some(255), "{words:?}");
        assert!(finished.stderr.contains(DENIED), "{words:?} {finished:?}");
        assert!(finished.stdout.is_empty(), "{words:?}");
    }
    assert_eq!(ssh(&["-i", &owner]).text(), "in\n");
    // Now somebody else is the owner.
    world.authorize("stranger");
    assert!(ssh(&["-i", &owner]).stderr.contains(DENIED));
    assert_eq!(ssh(&["-o", &stranger]).text(), "in\n");
}

#[test]
fn keys_are_not_tried_without_end() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let mut command = world.client("ssh");
    let text = std::fs::read_to_string(world.path("config")).unwrap();
    let owner = world.path("owner").display().to_string();
    let stranger = world.path("stranger").display().to_string();
    std::fs::write(world.path("config"), text.replace(&owner, &stranger)).unwrap();
    for number in 0..10 {
        let key = world.path(&format!("key{number}"));
        let quiet = ["-q", "-t", "ed25519", "-N", "", "-f"];
        let made = Command::new("ssh-keygen").args(quiet).arg(&key).status();
        assert!(made.unwrap().success());
        command.arg("-i").arg(&key);
    }
    command.args(["-i", &owner, "guest", "echo in"]);
    let finished = run(&mut command, b"");
    assert_eq!(finished.status.code(), Some(255));
    assert!(finished.stdout.is_empty(), "{finished:?}");
}

#[test]
fn another_host_key_is_noticed() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    std::fs::copy(world.path("stranger"), world.path("host")).unwrap();
    let finished = world.ssh(&["true"]);
    assert!(finished.stderr.contains("HOST IDENTIFICATION HAS CHANGED"));
}

#[test]
fn ports_are_not_forwarded() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let mut command = world.client("ssh");
    command.args(["-W", "127.0.0.1:1", "guest"]);
    let finished = run(&mut command, b"");
    assert_eq!(finished.status.code(), Some(255));
    assert!(
        finished.stderr.contains("forwarding failed"),
        "{finished:?}"
    );
    let mut command = world.client("ssh");
    command.args(["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"]);
    let finished = run(command.args(["guest", "echo in"]), b"");
    assert_eq!(finished.status.code(), Some(255), "{finished:?}");
    assert!(finished.stdout.is_empty());
}

fn server(world: &World, more: &[&str]) -> Command {
    let words = world.server(more);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

#[test]
fn garbage_ends_it_and_so_does_the_clients_end() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let nonsense = [b"SSH-2.0-x\r\n".to_vec(), bytes(1 << 20)].concat();
    for (input, code) in [(http, 1), (bytes(1 << 20), 1), (nonsense, 1), (vec![], 0)] {
        let finished = run(&mut server(&world, &[]), &input);
        assert_eq!(finished.status.code(), Some(code), "{finished:?}");
        assert!(finished.stdout.starts_with(b"SSH-2.0-banger_"));
    }
    let missing = ["--host-key", "/nowhere/key"];
    let finished = run(&mut server(&world, &missing), b"");
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.contains("/nowhere/key"), "{finished:?}");
    let unpollable = server(&world, &[]).stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&unpollable.stderr).contains("cannot be served"));
}

#[test]
fn a_client_that_does_not_log_in_is_ended() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let grace = ["--login-grace", "1"];
    for word in [&b""[..], b"SSH-2.0-OpenSSH_9.2\r\n"] {
        let begun = Instant::now();
        let mut child = server(&world, &grace)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Held open: the server does not see an end of its input.
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, word).unwrap();
        let mut said = vec![];
        child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(begun.elapsed() < Duration::from_secs(60));
        let mut complaint = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut complaint).unwrap();
        assert!(complaint.contains("nobody has logged in"), "{complaint}");
        drop(stdin);
    }
    // Who has logged in is not.
    world.configure(&grace);
    let finished = world.ssh(&["sleep 3; echo awake"]);
    assert_eq!(finished.text(), "awake\n", "{finished:?}");
}

#[test]
fn a_program_that_was_brought_gets_its_name_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (brought, place) = (dir.path().join("brought"), dir.path().join("place"));
    std::fs::copy(env!("CARGO_BIN_EXE_banger-sshd"), &brought).unwrap();
    std::fs::write(&place, "an older one").unwrap();
    // Whether there are keys is not what is asked here: without input it ends.
    run(Command::new(&brought).arg("settle").arg(&place), b"");
    assert!(!brought.exists());
    let version = run(Command::new(&place).arg("--version"), b"");
    assert!(version.text().starts_with("banger-sshd "), "{version:?}");
}
