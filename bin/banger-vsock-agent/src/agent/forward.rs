//! Forwarding: streams between the host and sockets on the guest's loopback, or the socket that
//! programs in the guest take for their ssh agent. Both work without any network.

mod relay;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use banger_guest_proto::{AgentError, AgentErrorCode, AgentMessage, ForwardReply, ForwardRequest};
use rustix::event::{PollFd, PollFlags};

use super::connection::Connection;
use super::state::State;

/// How many may wait to be claimed at a time, and how long.
const MAX_WAITING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(15);

/// Where programs in the guest find the host's ssh agent, while it is forwarded.
pub(super) const SSH_AGENT: &str = "/run/banger/ssh-agent.sock";

/// Who has connected in the guest, and is not claimed by the host yet.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<(u64, HashMap<u64, Waiter>)>);

#[derive(Debug)]
struct Waiter {
    stream: OwnedFd,
    since: Instant,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Waiter>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token under which the stream is claimed; `None` when too many wait.
    fn put(&self, stream: OwnedFd) -> Option<u64> {
        let mut all = self.lock();
        let now = Instant::now();
        all.1.retain(|_, waiter| now - waiter.since < PATIENCE);
        if all.1.len() >= MAX_WAITING {
            return None;
        }
        all.0 += 1;
        let (token, since) = (all.0, now);
        all.1.insert(token, Waiter { stream, since });
        Some(token)
    }

    fn take(&self, token: u64) -> Option<OwnedFd> {
        self.lock().1.remove(&token).map(|waiter| waiter.stream)
    }
}

enum Listener {
    Tcp(TcpListener),
    /// Removed when it goes away.
    Unix(UnixListener, PathBuf),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener {
    fn on_port(port: u16) -> io::Result<(Self, String)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let at = listener.local_addr()?.port().to_string();
        Ok((Self::Tcp(listener), at))
    }

    fn for_ssh(path: &Path) -> io::Result<(Self, String)> {
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        let only_root = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, only_root)?;
        listener.set_nonblocking(true)?;
        let at = path.display().to_string();
        Ok((Self::Unix(listener, path.to_owned()), at))
    }

    fn accept(&self) -> io::Result<OwnedFd> {
        Ok(match self {
            Self::Tcp(listener) => listener.accept()?.0.into(),
            Self::Unix(listener, _) => listener.accept()?.0.into(),
        })
    }
}

fn refuse(code: AgentErrorCode, message: String, hint: Option<&str>) -> AgentMessage {
    AgentMessage::Error(AgentError {
        code,
        message,
        hint: hint.map(str::to_owned),
    })
}

/// Serves one request; whether the connection has done its service with it.
pub(super) fn serve(
    connection: &mut Connection,
    request: ForwardRequest,
    state: &Arc<State>,
) -> io::Result<bool> {
    let opened = match request {
        ForwardRequest::Connect { port } => {
            let places: [SocketAddr; 2] = [
                (Ipv4Addr::LOCALHOST, port).into(),
                (Ipv6Addr::LOCALHOST, port).into(),
            ];
            TcpStream::connect(&places[..])
                .map(OwnedFd::from)
                .map_err(|error| {
                    let what =
                        format!("nothing accepts connections on the guest's port {port}: {error}");
                    refuse(
                        AgentErrorCode::NotFound,
                        what,
                        Some("`banger vm ports` lists what listens"),
                    )
                })
        }
        ForwardRequest::Claim { token } => state.waiting().take(token).ok_or_else(|| {
            let what = "who connected is gone".to_owned();
            refuse(AgentErrorCode::NotFound, what, None)
        }),
        ForwardRequest::Listen { port } => {
            let listener = Listener::on_port(port);
            return listen(connection, listener, &format!("port {port}"), state);
        }
        ForwardRequest::ListenSshAgent => {
            let listener = Listener::for_ssh(Path::new(SSH_AGENT));
            return listen(connection, listener, SSH_AGENT, state);
        }
    };
    match opened {
        Ok(stream) => {
            connection.send(&AgentMessage::Forward(ForwardReply::Connected))?;
            relay::Relay::new(connection, stream)?.run()?;
            Ok(true)
        }
        Err(refusal) => {
            connection.send(&refusal)?;
            Ok(false)
        }
    }
}

/// Tells the host of each who connects, for as long as the connection lives.
fn listen(
    connection: &mut Connection,
    listener: io::Result<(Listener, String)>,
    place: &str,
    state: &Arc<State>,
) -> io::Result<bool> {
    let (listener, at) = match listener {
        Ok(listener) => listener,
        Err(error) => {
            let code = match error.kind() {
                io::ErrorKind::AddrInUse => AgentErrorCode::Busy,
                _ => AgentErrorCode::Internal,
            };
            let what = format!("the guest cannot listen on {place}: {error}");
            connection.send(&refuse(code, what, None))?;
            return Ok(false);
        }
    };
    connection.send(&AgentMessage::Forward(ForwardReply::Listening { at }))?;
    let mut tokens = vec![];
    let result = tell(connection, &listener, state, &mut tokens);
    for token in tokens {
        drop(state.waiting().take(token));
    }
    result.map(|()| true)
}

fn tell(
    connection: &mut Connection,
    listener: &Listener,
    state: &Arc<State>,
    tokens: &mut Vec<u64>,
) -> io::Result<()> {
    loop {
        let socket = match listener {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener, _) => listener.as_fd(),
        };
        let mut fds = [
            PollFd::new(&connection.stream, PollFlags::IN),
            PollFd::from_borrowed_fd(socket, PollFlags::IN),
        ];
        let _ = rustix::event::poll(&mut fds, None);
        if !fds[0].revents().is_empty() {
            // The host has nothing to say but that it ends.
            return Ok(());
        }
        let Ok(stream) = listener.accept() else {
            continue;
        };
        if let Some(token) = state.waiting().put(stream) {
            // Those that were claimed are not ours to drop; taking a token twice does nothing.
            if tokens.len() >= MAX_WAITING {
                tokens.remove(0);
            }
            tokens.push(token);
            connection.send(&AgentMessage::Forward(ForwardReply::Accepted { token }))?;
        }
    }
}
