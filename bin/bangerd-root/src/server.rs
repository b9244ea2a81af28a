//! Accepting, authenticating and answering: one thread, so that verbs never overlap.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use banger_root_proto::{Refusal, RefusalCode, Reply, Request, recv_frame, send_frame};
use banger_rootops::{Helper, HelperConfig};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

/// Connections at once; more are closed at the door.
const MAX_CONNECTIONS: usize = 16;

/// A client that has been let in.
struct Connection {
    socket: OwnedFd,
    greeted: bool,
}

/// The listening socket, in place of a dead helper's.
pub(crate) fn listener(config: &HelperConfig) -> io::Result<OwnedFd> {
    let path = config.runtime_dir.join("helper.sock");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(&path)?)?;
    rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR)?;
    std::os::unix::fs::chown(&path, Some(config.owner_uid), Some(config.owner_gid))?;
    listen(&socket, 16)?;
    Ok(socket)
}

/// Serves until the process is ended.
pub(crate) fn run(
    listener: &OwnedFd,
    helper: &mut Helper,
    config: &HelperConfig,
) -> io::Result<()> {
    let mut log = open_log(&config.runtime_dir.join("helper.log"))?;
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let ready = wait(listener, &connections)?;
        // Backwards, so that removing one does not move those still to be looked at.
        for at in (0..connections.len()).rev() {
            if ready[at + 1] && !answer(&mut connections[at], helper, config.owner_uid, &mut log) {
                connections.swap_remove(at);
            }
        }
        if ready[0] {
            admit(listener, &mut connections, config.owner_uid, &mut log);
        }
    }
}

fn wait(listener: &OwnedFd, connections: &[Connection]) -> io::Result<Vec<bool>> {
    let sockets = std::iter::once(listener).chain(connections.iter().map(|c| &c.socket));
    let mut fds: Vec<PollFd<'_>> = sockets.map(|s| PollFd::new(s, PollFlags::IN)).collect();
    match poll(&mut fds, None) {
        Err(rustix::io::Errno::INTR) => {}
        result => drop(result?),
    }
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

fn admit(listener: &OwnedFd, connections: &mut Vec<Connection>, owner: u32, log: &mut fs::File) {
    let Ok(socket) = accept_with(listener, SocketFlags::CLOEXEC) else {
        return;
    };
    let peer = socket_peercred(&socket).map(|peer| peer.uid.as_raw());
    if peer != Ok(owner) {
        let _ = writeln!(
            log,
            "uid={peer:?} verb=connect result=refused (not the owner)"
        );
        let message = format!("this helper serves uid {owner} only");
        let refusal = Refusal {
            code: RefusalCode::Protocol,
            message,
            causes: vec![],
        };
        let _ = send_frame(&socket, &Reply::Refused(refusal), &[]);
    } else if connections.len() < MAX_CONNECTIONS {
        connections.push(Connection {
            socket,
            greeted: false,
        });
    }
}

/// One request; false when the connection is over.
fn answer(connection: &mut Connection, helper: &mut Helper, uid: u32, log: &mut fs::File) -> bool {
    let (request, fds) = match recv_frame::<Request>(&connection.socket) {
        Ok(Some(frame)) => frame,
        Ok(None) => return false,
        Err(error) => {
            let _ = writeln!(log, "uid={uid} verb=? result=refused ({error})");
            let message = error.to_string();
            let refusal = Refusal {
                code: RefusalCode::Invalid,
                message,
                causes: vec![],
            };
            let _ = send_frame(&connection.socket, &Reply::Refused(refusal), &[]);
            return false;
        }
    };
    let is_hello = matches!(request, Request::Hello { .. });
    if !connection.greeted && !is_hello {
        let message = "the first request must be hello".to_owned();
        let refusal = Refusal {
            code: RefusalCode::Protocol,
            message,
            causes: vec![],
        };
        let _ = send_frame(&connection.socket, &Reply::Refused(refusal), &[]);
        return false;
    }
    let (verb, vm) = (
        request.verb(),
        request.vm().map(ToString::to_string).unwrap_or_default(),
    );
    let start = Instant::now();
    let (reply, handles) = helper.handle(request, fds);
    let result = match &reply {
        Reply::Refused(refusal) => format!("refused ({refusal}: {})", refusal.causes.join(": ")),
        _ => "ok".to_owned(),
    };
    let took = start.elapsed().as_micros();
    let _ = writeln!(
        log,
        "uid={uid} verb={verb} vm={vm} us={took} result={result}"
    );
    let accepted = !matches!(reply, Reply::Refused(_));
    connection.greeted |= is_hello && accepted;
    let borrowed: Vec<_> = handles.iter().map(AsFd::as_fd).collect();
    send_frame(&connection.socket, &reply, &borrowed).is_ok() && connection.greeted
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.create(true).append(true).mode(0o644);
    options.open(path)
}
