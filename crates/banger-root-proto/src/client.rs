//! The owner's side of the helper's socket. Blocking: one request, one reply.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::{
    FrameError, PROTOCOL, Refusal, Reply, Request, SnapshotSupport, recv_frame, send_frame,
};

/// Why a call did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody answers there.
    #[error("failed to connect to the helper at {path}")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The connection broke.
    #[error("lost the helper")]
    Frame(#[source] FrameError),
    /// The helper ended in the middle.
    #[error("the helper closed the connection")]
    Closed,
    /// The helper said no.
    #[error("the helper refused")]
    Refused(#[source] Refusal),
    /// The helper answered something else.
    #[error("the helper gave an answer that does not fit the request")]
    Unexpected,
}

/// What the helper says of itself.
#[derive(Debug, Clone)]
pub struct HelperInfo {
    /// Package version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// The host's address on the bridge.
    pub bridge_ip: std::net::Ipv4Addr,
    /// Bits of the subnet's prefix.
    pub prefix: u8,
    /// The bridge's name.
    pub bridge: String,
    /// Whether root disks can be snapshots.
    pub snapshots: SnapshotSupport,
    /// Where its Firecracker is, when it was given one.
    pub firecracker: Option<String>,
}

/// A connection that has said hello.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    info: HelperInfo,
}

impl Client {
    /// Connects and checks the protocol.
    ///
    /// # Errors
    /// Nobody there, or another protocol.
    pub fn connect(path: &Path) -> Result<Self, CallError> {
        let failed = |source| CallError::Connect {
            path: path.display().to_string(),
            source,
        };
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        connect(&socket, &address).map_err(failed)?;
        match exchange(socket.as_fd(), &Request::Hello { protocol: PROTOCOL }, &[])?.0 {
            Reply::Hello {
                version,
                pid,
                bridge,
                bridge_ip,
                prefix,
                snapshots,
                firecracker,
                ..
            } => Ok(Self {
                socket,
                info: HelperInfo {
                    version,
                    pid,
                    bridge_ip,
                    prefix,
                    bridge,
                    snapshots,
                    firecracker,
                },
            }),
            _ => Err(CallError::Unexpected),
        }
    }

    /// What the helper said of itself.
    #[must_use]
    pub fn info(&self) -> &HelperInfo {
        &self.info
    }

    /// One request.
    ///
    /// # Errors
    /// A refusal, or a broken connection.
    pub fn call(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), CallError> {
        exchange(self.socket.as_fd(), request, fds)
    }
}

fn exchange(
    socket: BorrowedFd<'_>,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>), CallError> {
    let sent = send_frame(socket, request, fds);
    // A helper that refuses at the door says why and closes, perhaps before the request is there.
    let refused_early = matches!(
        sent,
        Err(FrameError::Socket(Errno::PIPE | Errno::CONNRESET))
    );
    if !refused_early {
        sent.map_err(CallError::Frame)?;
    }
    let answer = match recv_frame(socket) {
        // Reported once, before what was sent earlier (unix(7)).
        Err(FrameError::Socket(Errno::CONNRESET)) => recv_frame(socket),
        other => other,
    };
    match answer.map_err(CallError::Frame)? {
        None => Err(CallError::Closed),
        Some((Reply::Refused(refusal), _)) => Err(CallError::Refused(refusal)),
        Some(answer) => Ok(answer),
    }
}
