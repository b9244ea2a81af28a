//! The sockets: one task for UDP, one for TCP, and one for each of a bounded number of TCP clients.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::Zone;
use crate::answer::{Transport, answer};

/// TCP clients at once, of one listener. More wait in the kernel's queue.
const MAX_CLIENTS: usize = 64;
/// How long a TCP client may say nothing (RFC 7766 section 6.2.3: a few seconds).
const IDLE: Duration = Duration::from_secs(5);
/// The longest question: a name has at most 255 bytes, and EDNS options add little.
const MAX_QUESTION: usize = 4096;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartDnsError {
    /// The address could not be bound: taken, or not ours.
    #[error("failed to listen for DNS on {protocol} {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A passed socket cannot be used.
    #[error("failed to take over the passed DNS sockets")]
    TakeOver {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A running server. It ends when it is dropped.
#[derive(Debug)]
pub struct DnsServer {
    local_addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl DnsServer {
    /// Listens on UDP and TCP at `listen`. Port 0 takes any port that is free for both.
    ///
    /// # Errors
    /// When the address cannot be bound.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn start(listen: SocketAddr, zone: Zone) -> Result<Self, StartDnsError> {
        // A free UDP port can be taken for TCP; then another one is tried.
        let mut attempts = if listen.port() == 0 { 16 } else { 1 };
        loop {
            attempts -= 1;
            match bind(listen).await {
                Ok((udp, tcp)) => return Self::serve(udp, tcp, zone),
                Err(error) if attempts == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Serves on sockets that are bound (and, for TCP, listening) already.
    ///
    /// # Errors
    /// When they cannot be switched to non-blocking or have no address.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start_bound(
        udp: std::net::UdpSocket,
        tcp: std::net::TcpListener,
        zone: Zone,
    ) -> Result<Self, StartDnsError> {
        let take_over = |source| StartDnsError::TakeOver { source };
        udp.set_nonblocking(true).map_err(take_over)?;
        tcp.set_nonblocking(true).map_err(take_over)?;
        let udp = UdpSocket::from_std(udp).map_err(take_over)?;
        let tcp = TcpListener::from_std(tcp).map_err(take_over)?;
        Self::serve(udp, tcp, zone)
    }

    fn serve(udp: UdpSocket, tcp: TcpListener, zone: Zone) -> Result<Self, StartDnsError> {
        let local_addr = udp
            .local_addr()
            .map_err(|source| StartDnsError::TakeOver { source })?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, zone.clone()));
        tasks.spawn(serve_tcp(tcp, zone));
        Ok(Self {
            local_addr,
            _tasks: tasks,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

async fn bind(listen: SocketAddr) -> Result<(UdpSocket, TcpListener), StartDnsError> {
    let failed = |protocol, address| {
        move |source| StartDnsError::Bind {
            address,
            protocol,
            source,
        }
    };
    let udp = UdpSocket::bind(listen)
        .await
        .map_err(failed("UDP", listen))?;
    let address = udp.local_addr().map_err(failed("UDP", listen))?;
    let tcp = TcpListener::bind(address)
        .await
        .map_err(failed("TCP", address))?;
    Ok((udp, tcp))
}

async fn serve_udp(socket: UdpSocket, zone: Zone) {
    let mut packet = vec![0; MAX_QUESTION];
    let mut pace = pace();
    loop {
        match socket.recv_from(&mut packet).await {
            Ok((length, from)) => {
                if let Some(reply) = answer(&zone, &packet[..length], Transport::Udp)
                    && let Err(error) = socket.send_to(&reply, from).await
                {
                    tracing::debug!(%from, %error, "a DNS answer could not be sent");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "receiving a DNS question failed");
                pace.tick().await;
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Zone) {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut clients = JoinSet::new();
    let mut pace = pace();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, from)) => {
                let zone = zone.clone();
                clients.spawn(async move {
                    if let Err(error) = serve_client(stream, &zone).await {
                        tracing::debug!(%from, %error, "a DNS client was dropped");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a DNS client failed");
                pace.tick().await;
            }
        }
    }
}

/// Errors of a listening socket are transient (no descriptors, no memory), but can come at once
/// again: they are retried at this pace, not in a busy loop.
fn pace() -> tokio::time::Interval {
    let mut pace = interval(Duration::from_millis(100));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// Messages on a stream follow their length (RFC 1035 section 4.2.2).
async fn serve_client(mut stream: TcpStream, zone: &Zone) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        match timeout(IDLE, stream.read_exact(&mut length)).await? {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let length = usize::from(u16::from_be_bytes(length));
        if length > MAX_QUESTION {
            return Err(io::Error::other("the question is too long"));
        }
        let mut packet = vec![0; length];
        timeout(IDLE, stream.read_exact(&mut packet)).await??;
        let Some(reply) = answer(zone, &packet, Transport::Tcp) else {
            return Ok(());
        };
        let Ok(length) = u16::try_from(reply.len()) else {
            return Ok(());
        };
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
