//! The whole way but for the guest: ssh, the host's bridge, an agent, and the server as the agent's program.

use std::io::Read;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use banger_guest::exec::{ExecIo, bridge};
use banger_guest_proto::{ExecRequest, ExitStatus};

use super::world::{World, bytes, run};

/// Serves one client of a port that way; gives the port, and how the server ended.
fn serve_one(world: &World) -> Option<(u16, JoinHandle<ExitStatus>)> {
    let agent = Path::new(env!("CARGO_BIN_EXE_banger-sshd")).with_file_name("banger-vsock-agent");
    if !agent.exists() {
        println!("SKIPPED(ssh by an agent): {} is not built", agent.display());
        return None;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let request = ExecRequest::own(world.server(&[]));
    let serving = std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut agent = Command::new(agent)
            .arg("serve")
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        let (mut complaints, stderr) = std::io::pipe().unwrap();
        let io = ExecIo {
            stdin: client.as_fd(),
            stdout: client.as_fd(),
            stderr: stderr.as_fd(),
            tty: false,
        };
        let status = bridge(ours, request, io, Duration::from_secs(60));
        drop((stderr, client));
        let mut said = String::new();
        complaints.read_to_string(&mut said).unwrap();
        assert_eq!(said, "");
        agent.wait().unwrap();
        status.unwrap()
    });
    Some((port, serving))
}

#[test]
fn ssh_works_by_an_agent_and_ends_with_its_client() {
    let Some(world) = World::with(&[]) else {
        return;
    };
    let sent = bytes(10 << 20);
    for (words, input, code) in [
        (&["exit 7"][..], &b""[..], 7),
        (&["cat"], &sent, 0),
        (&["sleep 0.1; echo $$ >/dev/null; exit 3"], &sent, 3),
    ] {
        let Some((port, serving)) = serve_one(&world) else {
            return;
        };
        let mut command = world.client("ssh");
        command.args(["-o", "ProxyCommand=none", "-o", "HostKeyAlias=guest"]);
        command.args(["-p", &port.to_string(), "127.0.0.1"]);
        let finished = run(command.args(words), input);
        assert_eq!(
            finished.status.code(),
            Some(code),
            "{words:?} {}",
            finished.stderr
        );
        if words == ["cat"] {
            assert!(finished.stdout == sent);
        }
        assert_eq!(serving.join().unwrap(), ExitStatus::Code(0), "{words:?}");
    }
    // One that is killed, and can say nothing.
    let Some((port, serving)) = serve_one(&world) else {
        return;
    };
    let mut command = world.client("ssh");
    command.args(["-o", "ProxyCommand=none", "-o", "HostKeyAlias=guest"]);
    command.args([
        "-p",
        &port.to_string(),
        "127.0.0.1",
        "echo in; exec sleep 1000",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 3];
    child.stdout.take().unwrap().read_exact(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(serving.join().unwrap(), ExitStatus::Code(0));
}
