//! Forwarding against the host's side: real sockets on loopback, over a Unix socket in place of vsock.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use std::io::{Read, Write};

use banger_guest::AgentErrorCode;
use banger_guest::forward::{Frames, ask, relay};
use banger_guest::session::SessionError;
use banger_guest_proto::{ForwardReply, ForwardRequest};

const SIZE: usize = 8 << 20;

struct Agent(Child, tempfile::TempDir);

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_banger-vsock-agent"))
            .arg("serve")
            .arg(folder.path().join("socket"))
            .arg(folder.path().join("sessions"))
            .spawn()
            .unwrap();
        let agent = Self(child, folder);
        let deadline = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(agent.1.path().join("socket")).is_err() {
            assert!(Instant::now() < deadline, "it does not listen");
            let pause = rustix::time::Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            };
            let _ = rustix::event::poll(&mut [], Some(&pause));
        }
        agent
    }

    fn ask(&self, request: ForwardRequest) -> Result<(ForwardReply, UnixStream), SessionError> {
        let stream = UnixStream::connect(self.1.path().join("socket")).unwrap();
        ask(stream, request)
    }

    fn open(&self, request: ForwardRequest) -> UnixStream {
        match self.ask(request).unwrap() {
            (ForwardReply::Connected, stream) => stream,
            (other, _) => panic!("{other:?}"),
        }
    }

    fn refused(&self, request: ForwardRequest) -> AgentErrorCode {
        match self.ask(request).unwrap_err() {
            SessionError::Refused(error) => error.code,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Relays between a stream of the agent's and a socket, of which the other end is given.
fn relayed(guest: UnixStream) -> (UnixStream, thread::JoinHandle<std::io::Result<()>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let local = tokio::net::UnixStream::from_std(theirs).unwrap();
            relay(guest, local).await
        })
    });
    (ours, thread)
}

/// Says everything back until the end, and then one word more.
fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        stream.write_all(&buffer[..count]).unwrap();
    }
    stream.write_all(b"end").unwrap();
}

#[test]
fn a_port_is_reached_both_directions_end_by_themselves() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || echo(listener.accept().unwrap().0));
    let (mut ours, relaying) = relayed(agent.open(ForwardRequest::Connect { port }));
    let mut to = ours.try_clone().unwrap();
    let writer = thread::spawn(move || {
        let bytes: Vec<u8> = (0..SIZE).map(|i| (i % 251) as u8).collect();
        to.write_all(&bytes).unwrap();
        to.shutdown(Shutdown::Write).unwrap();
        bytes
    });
    let mut back = vec![];
    ours.read_to_end(&mut back).unwrap();
    let mut expected = writer.join().unwrap();
    expected.extend(b"end");
    assert!(
        back == expected,
        "{} bytes of {}",
        back.len(),
        expected.len()
    );
    server.join().unwrap();
    relaying.join().unwrap().unwrap();
}

#[test]
fn a_side_that_goes_away_is_told_to_the_other() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ours, relaying) = relayed(agent.open(ForwardRequest::Connect { port }));
    let (mut server, _) = listener.accept().unwrap();
    // The host's side is gone while the guest's goes on writing.
    drop(ours);
    let zeros = vec![0; 1 << 16];
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.write_all(&zeros).is_ok() {
        assert!(Instant::now() < deadline);
    }
    let _ = relaying.join().unwrap();

    let (mut ours, relaying) = relayed(agent.open(ForwardRequest::Connect { port }));
    drop(listener.accept().unwrap());
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    drop(ours);
    let _ = relaying.join().unwrap();
}

#[test]
fn who_connects_in_the_guest_is_claimed_once() {
    let agent = Agent::start();
    let (reply, control) = agent.ask(ForwardRequest::Listen { port: 0 }).unwrap();
    let ForwardReply::Listening { at } = reply else {
        panic!("{reply:?}");
    };
    let port: u16 = at.parse().unwrap();
    let busy = agent.refused(ForwardRequest::Listen { port });
    assert_eq!(busy, AgentErrorCode::Busy);
    control.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut frames = runtime.block_on(async {
        let control = tokio::net::UnixStream::from_std(control).unwrap();
        Frames::new(control)
    });
    let guest = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let program = thread::spawn(move || echo(guest));
    let token = runtime.block_on(frames.accepted()).unwrap().unwrap();
    let (mut ours, relaying) = relayed(agent.open(ForwardRequest::Claim { token }));
    let again = agent.refused(ForwardRequest::Claim { token });
    assert_eq!(again, AgentErrorCode::NotFound);
    ours.write_all(b"hello").unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    ours.read_to_string(&mut back).unwrap();
    assert_eq!(back, "helloend");
    program.join().unwrap();
    relaying.join().unwrap().unwrap();
    // One who is not claimed is dropped with the listener, which goes with the connection.
    let mut waiting = TcpStream::connect(("127.0.0.1", port)).unwrap();
    runtime.block_on(frames.accepted()).unwrap().unwrap();
    drop(frames);
    assert!(matches!(waiting.read(&mut [0]), Ok(0) | Err(_)));
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).is_ok() {
        assert!(Instant::now() < deadline, "it still listens");
    }
}

#[test]
fn who_spoke_before_it_was_claimed_is_heard() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let greeting = vec![b'x'; 60_000];
    let greets = greeting.clone();
    let rounds = 40;
    let program = thread::spawn(move || {
        for _ in 0..rounds {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&greets).unwrap();
        }
    });
    for _ in 0..rounds {
        // The agent may say that it is connected and what it has read at once.
        let (mut ours, relaying) = relayed(agent.open(ForwardRequest::Connect { port }));
        ours.shutdown(Shutdown::Write).unwrap();
        let mut heard = vec![];
        ours.read_to_end(&mut heard).unwrap();
        assert!(heard == greeting, "{} bytes", heard.len());
        relaying.join().unwrap().unwrap();
    }
    program.join().unwrap();
}

#[test]
fn who_reads_slowly_gets_all_of_it_also_after_the_agents_patience() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Less than the window, more than a socket holds: it waits in the relay.
    let size = 900_000;
    let program = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&vec![b'x'; size]).unwrap();
    });
    let (mut ours, relaying) = relayed(agent.open(ForwardRequest::Connect { port }));
    ours.shutdown(Shutdown::Write).unwrap();
    program.join().unwrap();
    let patience = rustix::time::Timespec {
        tv_sec: 6,
        tv_nsec: 0,
    };
    let _ = rustix::event::poll(&mut [], Some(&patience));
    let mut heard = vec![];
    ours.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len(), size);
    let _ = relaying.join().unwrap();
}

#[test]
fn who_reads_slowly_in_the_guest_gets_all_of_it_also_when_the_host_is_done() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (begin, may_begin) = std::sync::mpsc::channel::<()>();
    let program = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Its own end comes first.
        stream.shutdown(Shutdown::Write).unwrap();
        may_begin.recv().unwrap();
        let mut heard = vec![];
        stream.read_to_end(&mut heard).unwrap();
        heard.len()
    });
    let size = 9_000_000;
    let (mut ours, relaying) = relayed(agent.open(ForwardRequest::Connect { port }));
    let writer = thread::spawn(move || {
        ours.write_all(&vec![b'x'; size]).unwrap();
        drop(ours);
    });
    // All that fits on the way is on its way by then.
    let moment = rustix::time::Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let _ = rustix::event::poll(&mut [], Some(&moment));
    begin.send(()).unwrap();
    writer.join().unwrap();
    assert_eq!(program.join().unwrap(), size);
    let _ = relaying.join().unwrap();
}

#[test]
fn where_nobody_listens_is_told() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let refused = agent.refused(ForwardRequest::Connect { port });
    assert_eq!(refused, AgentErrorCode::NotFound);
    let refused = agent.refused(ForwardRequest::Claim { token: 77 });
    assert_eq!(refused, AgentErrorCode::NotFound);
}
