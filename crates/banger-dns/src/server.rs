//! The sockets: one task for UDP, one for TCP, and one for each of a bounded number of TCP clients.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::Zone;
use crate::answer::{Asked, Transport, Verdict, judge};
use crate::forward::{Forwarder, Turn};

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
                Ok((udp, tcp)) => {
                    let forwarder = None;
                    return Self::serve(udp, tcp, Service { zone, forwarder });
                }
                Err(error) if attempts == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Serves on sockets that are bound (and, for TCP, listening) already. With a forwarder,
    /// guests with NAT get names of the world too.
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
        forwarder: Option<Forwarder>,
    ) -> Result<Self, StartDnsError> {
        let take_over = |source| StartDnsError::TakeOver { source };
        udp.set_nonblocking(true).map_err(take_over)?;
        tcp.set_nonblocking(true).map_err(take_over)?;
        let udp = UdpSocket::from_std(udp).map_err(take_over)?;
        let tcp = TcpListener::from_std(tcp).map_err(take_over)?;
        Self::serve(udp, tcp, Service { zone, forwarder })
    }

    fn serve(udp: UdpSocket, tcp: TcpListener, service: Service) -> Result<Self, StartDnsError> {
        let local_addr = udp
            .local_addr()
            .map_err(|source| StartDnsError::TakeOver { source })?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, service.clone()));
        tasks.spawn(serve_tcp(tcp, service));
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

/// What answers are made of.
#[derive(Debug, Clone)]
struct Service {
    zone: Zone,
    forwarder: Option<Forwarder>,
}

/// What becomes of a packet.
enum Outcome {
    Done(Option<Vec<u8>>),
    Ask(Box<Asked>, Turn),
}

impl Service {
    fn judge(&self, packet: &[u8], transport: Transport, from: SocketAddr) -> Outcome {
        let forwarder = match from.ip() {
            IpAddr::V4(asker) => self.forwarder.as_ref().filter(|_| self.zone.has_nat(asker)),
            IpAddr::V6(_) => None,
        };
        match judge(&self.zone, packet, transport, forwarder.is_some()) {
            Verdict::Silence => Outcome::Done(None),
            Verdict::Answer(reply) => Outcome::Done(Some(reply)),
            Verdict::Forward(asked) => match forwarder.and_then(|f| f.turn(from.ip())) {
                Some(turn) => Outcome::Ask(asked, turn),
                None => Outcome::Done(asked.reply(Err(ResponseCode::ServFail))),
            },
        }
    }
}

async fn serve_udp(socket: UdpSocket, service: Service) {
    let socket = Arc::new(socket);
    let mut packet = vec![0; MAX_QUESTION];
    let mut pace = pace();
    // As many as there are turns.
    let mut asking = JoinSet::new();
    loop {
        while asking.try_join_next().is_some() {}
        match socket.recv_from(&mut packet).await {
            Ok((length, from)) => match service.judge(&packet[..length], Transport::Udp, from) {
                Outcome::Done(reply) => send(&socket, reply, from).await,
                Outcome::Ask(asked, turn) => {
                    let socket = Arc::clone(&socket);
                    asking.spawn(async move {
                        let answer = turn.ask(&asked).await;
                        send(&socket, asked.reply(answer), from).await;
                    });
                }
            },
            Err(error) => {
                tracing::debug!(%error, "receiving a DNS question failed");
                pace.tick().await;
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: Option<Vec<u8>>, to: SocketAddr) {
    let Some(reply) = reply else { return };
    if let Err(error) = socket.send_to(&reply, to).await {
        tracing::debug!(%to, %error, "a DNS answer could not be sent");
    }
}

async fn serve_tcp(listener: TcpListener, service: Service) {
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
                let service = service.clone();
                clients.spawn(async move {
                    if let Err(error) = serve_client(stream, from, &service).await {
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
async fn serve_client(
    mut stream: TcpStream,
    from: SocketAddr,
    service: &Service,
) -> io::Result<()> {
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
        let reply = match service.judge(&packet, Transport::Tcp, from) {
            Outcome::Done(reply) => reply,
            Outcome::Ask(asked, turn) => {
                let answer = turn.ask(&asked).await;
                asked.reply(answer)
            }
        };
        let Some(reply) = reply else {
            return Ok(());
        };
        let Ok(length) = u16::try_from(reply.len()) else {
            return Ok(());
        };
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
