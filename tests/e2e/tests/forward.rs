//! `vm forward` with a real guest: ports both ways, and the host's ssh agent. Every wait has an end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use banger_e2e::{Banger, Client, SMALL, until};

const PATIENCE: Duration = Duration::from_secs(60);

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// A port that nobody has now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

/// A service here that gives back what it gets, and ends with its client.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut from = &stream;
                let _ = std::io::copy(&mut from, &mut &stream);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    port
}

#[test]
fn ports_lead_both_ways_and_end_with_the_command() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    // Nothing of it needs the guest's network.
    vm.sh("ip link set eth0 down 2>/dev/null || true");
    let (here, there) = (free_port(), echo());
    // From here into the guest, where the other forwarding takes it back to here.
    let out = format!("{here}:7777");
    let back = format!("7777:{there}");
    let args = ["vm", "forward", &vm.name, &out, "--reverse", &back];
    let mut forward = Client::start(&banger, &args);
    forward.hear_note("leads to port 7777 in");
    forward.hear_note(&format!("leads to 127.0.0.1:{there} here"));

    let bytes: Vec<u8> = (0..4_000_000_u32)
        .map(|n| n.wrapping_mul(n).to_le_bytes()[1])
        .collect();
    let begun = Arc::new(Barrier::new(5));
    let loops: Vec<_> = (0..4)
        .map(|number| {
            let (bytes, begun) = (bytes.clone(), Arc::clone(&begun));
            std::thread::spawn(move || {
                let stream = connect(here);
                (&stream).write_all(b"?").expect("it takes a byte");
                (&stream).read_exact(&mut [0]).expect("and gives it back");
                begun.wait();
                let mut reading = stream.try_clone().expect("cloned");
                let reader = std::thread::spawn(move || {
                    let mut back = vec![];
                    reading.read_to_end(&mut back).map(|_| back)
                });
                (&stream).write_all(&bytes).expect("it takes all");
                // Half of it is closed; the other half goes on to its own end.
                stream.shutdown(Shutdown::Write).expect("shut");
                let back = reader.join().expect("joins").expect("it ends");
                assert!(back == bytes, "stream {number}: {} bytes", back.len());
            })
        })
        .collect();
    // The daemon is needed for new streams only, and then there is another one.
    let kept = connect(here);
    begun.wait();
    banger.kill_daemon();
    for stream in loops {
        stream.join().expect("a stream");
    }
    let mut answer = [0; 5];
    (&kept).write_all(b"still").expect("taken");
    (&kept).read_exact(&mut answer).expect("given back");
    assert_eq!(&answer, b"still");

    let taken = banger.run(&["vm", "forward", &vm.name, &here.to_string()]);
    taken.assert_failed("a port that is taken here", 5, &["cannot be listened on"]);
    let taken = banger.run(&["vm", "forward", &vm.name, "--reverse", "7777"]);
    taken.assert_failed("a port that is taken there", 5, &["port 7777"]);

    forward.signal(rustix::process::Signal::INT);
    assert_eq!(forward.end().code, 130);
    assert!(
        matches!((&kept).read(&mut answer), Ok(0) | Err(_)),
        "it goes on"
    );
    // The port is free again in the guest as soon as its agent has heard of the end.
    until("the guest listens no more", PATIENCE, || {
        let ports = banger.json(&["vm", "ports", &vm.name]);
        !ports.to_string().contains("7777")
    });
}

#[test]
fn where_nobody_listens_is_said_and_the_forwarding_goes_on() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let (here, nobody) = (free_port(), free_port());
    let args = [
        "vm",
        "forward",
        &vm.name,
        &format!("{here}:4242"),
        "--reverse",
        &format!("4243:{nobody}"),
    ];
    let mut forward = Client::start(&banger, &args);
    forward.hear_note(&format!("leads to 127.0.0.1:{nobody} here"));
    let mut byte = [0];
    for _ in 0..3 {
        let closed = connect(here).read(&mut byte);
        assert!(matches!(closed, Ok(0) | Err(_)));
        forward.hear_note("nothing accepts connections on the guest's port 4242");
    }
    let other = free_port();
    let mut inner = Client::start(
        &banger,
        &["vm", "forward", &vm.name, &format!("{other}:4243")],
    );
    inner.hear_note("leads to port 4243");
    assert!(matches!(connect(other).read(&mut byte), Ok(0) | Err(_)));
    forward.hear_note(&format!("127.0.0.1:{nobody}: "));
    // A VM that ends is told.
    banger.ok(&["vm", "stop", &vm.name]);
    let ended = forward.end();
    ended.assert_failed("the VM's end", 1, &["the guest listens no more"]);
}

/// An ssh agent of the test's, with one key. Ends with the value.
struct SshAgent {
    folder: tempfile::TempDir,
    process: Child,
}

impl SshAgent {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("agent");
        let process = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("ssh-agent starts");
        until("the agent is there", PATIENCE, || socket.exists());
        let agent = Self { folder, process };
        let key = agent.folder.path().join("key");
        let quiet = ["-q", "-t", "ed25519", "-N", "", "-C", "the-tests-key", "-f"];
        let made = Command::new("ssh-keygen").args(quiet).arg(&key).status();
        assert!(made.expect("ssh-keygen starts").success());
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(&key).env("SSH_AUTH_SOCK", agent.socket());
        assert!(add.status().expect("ssh-add starts").success());
        agent
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent")
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_hosts_ssh_agent_signs_for_the_guest_while_it_is_forwarded() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "ready"]);
    let agent = SshAgent::new();
    let mut unset = banger.command(&["vm", "forward", &vm.name, "--ssh-agent"]);
    let refused = Client::from({
        unset.env_remove("SSH_AUTH_SOCK");
        unset
    });
    refused
        .end()
        .assert_failed("no agent here", 2, &["SSH_AUTH_SOCK"]);

    let exec = |line: &str| {
        let args = ["vm", "exec", &vm.name, "--", "sh", "-c", line];
        Client::start(&banger, &args).end()
    };
    for round in 0..3 {
        let mut command = banger.command(&["vm", "forward", &vm.name, "--ssh-agent"]);
        command.env("SSH_AUTH_SOCK", agent.socket());
        let mut forward = Client::from(command);
        forward.hear_note("SSH_AUTH_SOCK=");
        for _ in 0..5 {
            let listed = exec("ssh-add -l");
            assert_eq!(listed.code, 0, "{round}: {}", listed.stderr);
            assert!(listed.stdout.contains("the-tests-key"), "{}", listed.stdout);
        }
        // Many at once, and one who only connects and stays.
        let stays = "exec python3 -c 'import os,socket,sys;s=socket.socket(socket.AF_UNIX);s.connect(os.environ[\"SSH_AUTH_SOCK\"]);print(\"there\",flush=True);sys.stdin.read()'";
        let mut idle = Client::start(
            &banger,
            &["vm", "exec", "-i", &vm.name, "--", "sh", "-c", stays],
        );
        idle.hear("there\n");
        let many = exec("for n in 1 2 3 4 5 6 7 8; do ssh-add -l & done; wait");
        assert_eq!(
            many.stdout.matches("the-tests-key").count(),
            8,
            "{}",
            many.stderr
        );
        let signed = exec(
            "cd /tmp && ssh-add -L >k.pub && echo text >t && rm -f t.sig && ssh-keygen -q -Y sign -n file -f k.pub t && head -1 t.sig",
        );
        assert_eq!(
            signed.stdout, "-----BEGIN SSH SIGNATURE-----\n",
            "{}",
            signed.stderr
        );
        forward.signal(rustix::process::Signal::INT);
        assert_eq!(forward.end().code, 130);
        assert_eq!(idle.end().code, 0);
        until("the socket is gone", PATIENCE, || {
            exec("test ! -e /run/banger/ssh-agent.sock").code == 0
        });
        let none = exec("echo \"<$SSH_AUTH_SOCK>\"");
        assert_eq!(none.stdout, "<>\n");
    }
}
