//! The connection to a Firecracker. What answers there belongs to a VM: it is waited for no longer
//! than a deadline, and little of it is read.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request as HttpRequest, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::api::{BalloonStats, Fault, InstanceInfo, VersionInfo};
use super::request::Request;
use super::version::FirecrackerVersion;

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 10;
/// The longest fault that is shown, in characters.
const MAX_FAULT: usize = 400;

/// Why Firecracker did not do it.
#[derive(Debug, thiserror::Error)]
pub enum FirecrackerError {
    /// There is no socket: it has not come up, or is gone.
    #[error("there is no API socket at {}", socket.display())]
    NoSocket {
        /// The socket.
        socket: PathBuf,
    },
    /// There is a socket and nobody behind it: it is left from a process that has ended.
    #[error("nobody listens on the API socket {}: its Firecracker has ended", socket.display())]
    StaleSocket {
        /// The socket.
        socket: PathBuf,
    },
    /// Something else stands there, or it cannot be connected to.
    #[error("the API socket {} cannot be used", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke in the middle.
    #[error("Firecracker ended during `{request}`")]
    Gone {
        /// Method and path.
        request: String,
        /// How that was seen.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It did not answer: it hangs, or is stopped.
    #[error("Firecracker did not answer `{request}` within {after:?}")]
    Timeout {
        /// Method and path.
        request: String,
        /// How long it had.
        after: Duration,
    },
    /// It said no.
    #[error("Firecracker refused `{request}` ({status}): {message}")]
    Fault {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// Its fault message.
        message: String,
    },
    /// It said something that is not of its API.
    #[error("Firecracker's answer to `{request}` is not understood: {why}")]
    Answer {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is of another age.
    #[error(
        "it is Firecracker {found}; banger uses {} and later, before {}",
        FirecrackerVersion::OLDEST,
        FirecrackerVersion::TOO_NEW
    )]
    Version {
        /// What it says it is.
        found: String,
    },
    /// It belongs to another VM.
    #[error("the Firecracker there is `{found}`, not `{expected}`")]
    Identity {
        /// Whose it says it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
}

/// A connection, for one request after the other.
#[derive(Debug)]
pub struct FirecrackerClient {
    sender: SendRequest<Full<Bytes>>,
    patience: Duration,
}

impl FirecrackerClient {
    /// Connects to the socket at this path, which no link may stand for. `patience` is what each
    /// request may take.
    ///
    /// # Errors
    /// No socket, a stale one, or none that can be used.
    pub async fn connect(socket: &Path, patience: Duration) -> Result<Self, FirecrackerError> {
        let other = |source: io::Error| FirecrackerError::Connect {
            socket: socket.to_owned(),
            source,
        };
        let node = open_socket(socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FirecrackerError::NoSocket {
                socket: socket.to_owned(),
            },
            _ => other(error),
        })?;
        // Through the open node: however long the path, and whatever stands there by now.
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        let connected = timeout(patience, UnixStream::connect(path)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(FirecrackerError::StaleSocket {
                    socket: socket.to_owned(),
                });
            }
            Ok(Err(error)) => return Err(other(error)),
            Err(_) => return Err(other(io::ErrorKind::TimedOut.into())),
        };
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| other(io::Error::other(error)))?;
        // It ends with the sender, and what breaks it is told to whoever waits for an answer.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender, patience })
    }

    /// Tells it to do something.
    ///
    /// # Errors
    /// A fault, or no answer.
    pub async fn send(&mut self, request: &Request) -> Result<(), FirecrackerError> {
        let name = request.name();
        let body = request.body().map_err(|error| FirecrackerError::Answer {
            request: name.clone(),
            why: error.to_string(),
        })?;
        self.exchange(&name, request.method(), &request.path(), body)
            .await
            .map(drop)
    }

    /// Who it is and what it does.
    ///
    /// # Errors
    /// A fault, no answer, or one that is not understood.
    pub async fn instance(&mut self) -> Result<InstanceInfo, FirecrackerError> {
        self.get("/").await
    }

    /// Its version, of those that banger can use.
    ///
    /// # Errors
    /// No answer, or another version.
    pub async fn version(&mut self) -> Result<FirecrackerVersion, FirecrackerError> {
        let info: VersionInfo = self.get("/version").await?;
        let found = info.firecracker_version;
        let parsed = found.parse::<FirecrackerVersion>().ok();
        parsed
            .filter(|version| version.is_supported())
            .ok_or_else(|| FirecrackerError::Version {
                found: printable(&found, 40),
            })
    }

    /// How the guest's memory is used, as the balloon tells it.
    ///
    /// # Errors
    /// A fault (there is no balloon, or it tells nothing), or no answer.
    pub async fn balloon_stats(&mut self) -> Result<BalloonStats, FirecrackerError> {
        self.get("/balloon/statistics").await
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, FirecrackerError> {
        let name = format!("GET {path}");
        let answer = self.exchange(&name, Method::GET, path, vec![]).await?;
        serde_json::from_slice(&answer).map_err(|error| FirecrackerError::Answer {
            request: name,
            why: error.to_string(),
        })
    }

    async fn exchange(
        &mut self,
        name: &str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, FirecrackerError> {
        let answer = |why: String| FirecrackerError::Answer {
            request: name.to_owned(),
            why,
        };
        let request = HttpRequest::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| answer(error.to_string()))?;
        let gone = |source: Box<dyn std::error::Error + Send + Sync>| FirecrackerError::Gone {
            request: name.to_owned(),
            source,
        };
        let patience = self.patience;
        let exchange = async {
            self.sender
                .ready()
                .await
                .map_err(|error| gone(error.into()))?;
            let response = self.sender.send_request(request).await;
            let response = response.map_err(|error| gone(error.into()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await;
            body.map(|body| (status, body.to_bytes())).map_err(gone)
        };
        let (status, body) =
            timeout(patience, exchange)
                .await
                .map_err(|_| FirecrackerError::Timeout {
                    request: name.to_owned(),
                    after: patience,
                })??;
        match status {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(body),
            _ => Err(FirecrackerError::Fault {
                request: name.to_owned(),
                status: status.as_u16(),
                message: fault_message(&body),
            }),
        }
    }
}

/// What a refusal says, or the start of what was said instead.
fn fault_message(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Fault>(body) {
        Ok(fault) => fault.fault_message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    printable(&text, MAX_FAULT)
}

fn printable(text: &str, most: usize) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.take(most).collect::<String>().trim().to_owned()
}

/// The socket itself, opened without following a link that its owner may have put there.
fn open_socket(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = open(path, flags, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&node)?.st_mode) {
        FileType::Socket => Ok(File::from(node).into()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a socket",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_shown_without_control_bytes_and_not_at_length() {
        assert_eq!(
            fault_message(br#"{"fault_message":"The kernel\nis \u001b[31mbad"}"#),
            "The kernel is  [31mbad"
        );
        assert_eq!(fault_message(b"not json"), "not json");
        assert_eq!(fault_message(&[b'x'; 9000]).len(), MAX_FAULT);
        assert_eq!(fault_message(b""), "");
    }
}
