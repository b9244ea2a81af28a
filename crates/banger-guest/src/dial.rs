//! Connecting to a port of a guest through the VM's vsock socket.
//!
//! The convention is Firecracker's (`docs/vsock.md` in its repository, "Host-Initiated
//! Connections"): connect to the Unix socket, send `CONNECT <port>\n`, read `OK <number>\n`; what
//! follows is the guest's. banger's QEMU backend speaks the same, and holds the answer back until
//! the guest listens.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_guest_proto::AGENT_PORT;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

/// The longest path of a Unix socket, in bytes (unix(7): 108 with the final zero).
const MAX_SOCKET_PATH: usize = 107;

/// How long to wait before a socket that is not there yet is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// The longest first line of a VMM, in bytes.
const MAX_GREETING: usize = 64;

/// Where a VM's guest is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestAddress {
    /// The VM's vsock socket.
    pub socket: PathBuf,
}

/// Why a guest's port was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The VM's socket could not be opened.
    #[error("failed to connect to the VM's socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection ended, or failed, before the guest's port was open.
    #[error("the guest does not accept connections on port {port}")]
    Refused {
        /// The port.
        port: u32,
        /// Why, when it is known.
        #[source]
        source: Option<io::Error>,
    },
    /// The VMM answered something else.
    #[error("the VM's socket answered `{answer}` instead of OK")]
    Answer {
        /// Its start, escaped.
        answer: String,
    },
    /// The deadline passed.
    #[error("the guest did not accept a connection on port {port} in time")]
    Deadline {
        /// The port.
        port: u32,
    },
}

impl GuestAddress {
    /// The guest behind this socket.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Connects to the agent's port, once. The stream is raw: nothing of the agent's protocol has
    /// been spoken, nor read.
    ///
    /// # Errors
    /// [`DialError`] when the socket or the port does not answer.
    pub async fn dial(&self) -> Result<UnixStream, DialError> {
        self.dial_port(AGENT_PORT).await
    }

    /// Connects to any port, once.
    ///
    /// # Errors
    /// [`DialError`] when the socket or the port does not answer.
    pub async fn dial_port(&self, port: u32) -> Result<UnixStream, DialError> {
        let mut stream = connect(&self.socket)
            .await
            .map_err(|source| DialError::Connect {
                path: self.socket.clone(),
                source,
            })?;
        let refused = |source| DialError::Refused {
            port,
            source: Some(source),
        };
        let request = format!("CONNECT {port}\n");
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(refused)?;
        let mut line = vec![];
        // Byte by byte: what follows the line is already the guest's.
        loop {
            let mut byte = [0];
            if stream.read(&mut byte).await.map_err(refused)? == 0 {
                return Err(DialError::Refused { port, source: None });
            }
            if byte == *b"\n" {
                break;
            }
            line.push(byte[0]);
            if line.len() >= MAX_GREETING {
                break;
            }
        }
        if line.starts_with(b"OK ") {
            Ok(stream)
        } else {
            Err(DialError::Answer {
                answer: line.escape_ascii().to_string(),
            })
        }
    }

    /// Connects to the agent's port, again and again until it answers or the deadline passes: the
    /// socket may not be there yet, and a VMM refuses while its guest does not listen.
    ///
    /// # Errors
    /// [`DialError`]: the last one, or that the deadline passed.
    pub async fn dial_until(&self, deadline: Instant) -> Result<UnixStream, DialError> {
        loop {
            let attempt = tokio::time::timeout_at(deadline, self.dial()).await;
            let error = match attempt {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error,
                Err(_) => return Err(DialError::Deadline { port: AGENT_PORT }),
            };
            let next = Instant::now() + RETRY;
            if next >= deadline || matches!(error, DialError::Answer { .. }) {
                return Err(error);
            }
            tokio::time::sleep_until(next).await;
        }
    }
}

/// Connects to a Unix socket, also where its path is too long for a socket address: then through
/// the descriptor of its folder, which has a short name under `/proc`.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixStream::connect(path).await;
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    UnixStream::connect(short).await
}
