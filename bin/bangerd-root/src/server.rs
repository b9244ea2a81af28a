//! Accepting, authenticating and answering: a thread for each connection, one request at a time.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use banger_root_proto::{Refusal, RefusalCode, Reply, Request, recv_frame, send_frame};
use banger_rootops::{Config, FirewallWatch, Helper};
use rustix::event::{Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

use crate::log::Log;

/// The socket's name in the runtime directory.
pub(crate) const SOCKET: &str = "helper.sock";

/// Connections at once; more are turned away at the door.
const MAX_CONNECTIONS: usize = 8;

/// When an accept that failed is tried again.
const AGAIN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What a connection works with.
#[derive(Clone)]
struct Service {
    helper: Arc<Mutex<Helper>>,
    owner: u32,
    log: Log,
    connections: Arc<AtomicUsize>,
}

/// The listening socket, in place of a dead helper's. The lock is held, so no live one is there.
pub(crate) fn listener(config: &Config) -> io::Result<OwnedFd> {
    let path = config.runtime_dir.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let kind = SocketType::SEQPACKET;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(&path)?)?;
    rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR)?;
    std::os::unix::fs::chown(&path, Some(config.owner), None)?;
    listen(&socket, 16)?;
    Ok(socket)
}

/// Serves for as long as the process lives.
pub(crate) fn accept_in_background(
    listener: OwnedFd,
    helper: Arc<Mutex<Helper>>,
    log: Log,
) -> io::Result<()> {
    let owner = helper
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .config()
        .owner;
    let connections = Arc::default();
    let service = Service {
        helper,
        owner,
        log,
        connections,
    };
    let accept = move || {
        loop {
            match accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(socket) => service.admit(socket),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                // For the moment there is no more of something.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    let _ = poll(&mut [], Some(&AGAIN));
                }
                // Nothing more will come; the owner's daemon sees that nobody answers.
                Err(errno) => {
                    return service
                        .log
                        .line(format_args!("verb=accept failed: {errno}"));
                }
            }
        }
    };
    thread::Builder::new().name("accept".into()).spawn(accept)?;
    Ok(())
}

/// Puts the firewall right whenever somebody else has changed it, whether the owner's daemon runs
/// or not.
pub(crate) fn guard_in_background(helper: Arc<Mutex<Helper>>, log: Log) -> io::Result<()> {
    let watch = match FirewallWatch::open() {
        Ok(watch) => watch,
        // Then it is looked at before each launch, and when the daemon asks.
        Err(error) => {
            log.line(format_args!("verb=guard failed: {error}"));
            return Ok(());
        }
    };
    let guard = move || {
        while watch.wait().is_ok() {
            let mut helper = helper.lock().unwrap_or_else(PoisonError::into_inner);
            match helper.guard_firewall() {
                Ok(repairs) if repairs.is_empty() => {}
                Ok(repairs) => log.line(format_args!("verb=guard result=ok {repairs:?}")),
                Err(refusal) => log.line(format_args!(
                    "verb=guard result=failed ({refusal}: {})",
                    refusal.causes.join(": ")
                )),
            }
        }
        log.line(format_args!("verb=guard ended"));
    };
    thread::Builder::new().name("guard".into()).spawn(guard)?;
    Ok(())
}

impl Service {
    fn admit(&self, socket: OwnedFd) {
        let peer = socket_peercred(&socket).map(|peer| peer.uid.as_raw());
        if peer != Ok(self.owner) {
            self.log.line(format_args!(
                "uid={peer:?} verb=connect result=refused (not the owner)"
            ));
            let message = format!("this helper serves user {} only", self.owner);
            return refuse(&socket, RefusalCode::Invalid, message);
        }
        if self.connections.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            let message = format!("there are {MAX_CONNECTIONS} connections already");
            return refuse(&socket, RefusalCode::Quota, message);
        }
        let service = self.clone();
        let serve = move || {
            service.serve(&socket);
            service.connections.fetch_sub(1, Ordering::AcqRel);
        };
        if thread::Builder::new()
            .name("serve".into())
            .spawn(serve)
            .is_err()
        {
            self.connections.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn serve(&self, socket: &OwnedFd) {
        let mut greeted = false;
        loop {
            match recv_frame::<Request>(socket) {
                Ok(None) => return,
                Ok(Some((request, fds))) => {
                    let is_hello = matches!(request, Request::Hello { .. });
                    if is_hello == greeted {
                        let message = "`hello` comes first, and once".to_owned();
                        return refuse(socket, RefusalCode::Protocol, message);
                    }
                    if !self.answer(socket, &request, &fds) {
                        return;
                    }
                    greeted = true;
                }
                Err(error) => {
                    self.log.line(format_args!(
                        "uid={} verb=? result=refused ({error})",
                        self.owner
                    ));
                    return refuse(socket, RefusalCode::Invalid, error.to_string());
                }
            }
        }
    }

    /// False when the connection is over.
    fn answer(&self, socket: &OwnedFd, request: &Request, fds: &[OwnedFd]) -> bool {
        let start = Instant::now();
        let (reply, handles) = {
            let mut helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
            helper.handle(request, fds)
        };
        let took = start.elapsed().as_secs_f64() * 1e3;
        let vm = request.vm().map_or("-", |vm| vm.as_str());
        let (uid, verb) = (self.owner, request.verb());
        let result = match &reply {
            Reply::Refused(refusal) => {
                format!(
                    "refused ({:?}: {refusal}: {})",
                    refusal.code,
                    refusal.causes.join(": ")
                )
            }
            // It comes every few seconds.
            Reply::Tended { repairs, .. } if repairs.is_empty() => String::new(),
            Reply::Tended { repairs, names } => format!("ok {repairs:?} {names:?}"),
            _ => "ok".to_owned(),
        };
        if !result.is_empty() {
            self.log.line(format_args!(
                "uid={uid} verb={verb} vm={vm} result={result} ms={took:.2}"
            ));
        }
        let refused_hello = matches!(
            (request, &reply),
            (Request::Hello { .. }, Reply::Refused(_))
        );
        let borrowed: Vec<_> = handles.iter().map(OwnedFd::as_fd).collect();
        send_frame(socket, &reply, &borrowed).is_ok() && !refused_hello
    }
}

fn refuse(socket: &OwnedFd, code: RefusalCode, message: String) {
    let refusal = Refusal {
        code,
        message,
        causes: vec![],
    };
    // The peer may have gone already.
    let _ = send_frame(socket, &Reply::Refused(refusal), &[]);
}
