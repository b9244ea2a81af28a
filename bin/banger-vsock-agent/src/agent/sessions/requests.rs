//! What clients ask about sessions.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_guest_proto::{
    AgentErrorCode, AgentMessage, SessionInfo, SessionName, SessionReply, SessionRequest,
};
use rustix::process::Signal;

use super::entry::Entry;
use super::view::View;
use super::{Refusal, refuse};
use crate::agent::connection::Connection;
use crate::agent::state::State;

/// How often a waiting client is looked at: whether it is still there.
const LOOK: Duration = Duration::from_millis(500);

/// The longest grace.
const MAX_GRACE: Duration = Duration::from_secs(3600);

/// Serves one request; whether the connection has done its service with it.
pub(in crate::agent) fn serve(
    connection: &mut Connection,
    request: SessionRequest,
    state: &Arc<State>,
) -> io::Result<bool> {
    let kept = state.kept();
    let answer = match request {
        SessionRequest::Start(spec) => kept.start(state, spec).map(SessionReply::Started),
        SessionRequest::List => Ok(SessionReply::List {
            sessions: kept.list(),
        }),
        SessionRequest::Show { name } => kept.find(&name).map(|e| SessionReply::Info(e.info())),
        SessionRequest::Delete { name } => kept.delete(&name).map(|()| SessionReply::Deleted),
        SessionRequest::Stop { name, grace_ms } => match kept.find(&name) {
            Ok(entry) => {
                stop(&entry, Duration::from_millis(grace_ms).min(MAX_GRACE));
                wait_for_end(connection, &entry).map(|info| Ok(SessionReply::Info(info)))?
            }
            Err(refusal) => Err(refusal),
        },
        SessionRequest::Kill { name, signal } => match kept.find(&name) {
            Ok(entry) if signal == Signal::KILL.as_raw() => {
                stop(&entry, Duration::ZERO);
                wait_for_end(connection, &entry).map(|info| Ok(SessionReply::Info(info)))?
            }
            Ok(entry) => send(&entry, &name, signal).map(SessionReply::Info),
            Err(refusal) => Err(refusal),
        },
        SessionRequest::Logs(request) => match kept.find(&request.name) {
            Ok(entry) => {
                return View::logs(connection, &entry, &request)?
                    .serve()
                    .map(|()| true);
            }
            Err(refusal) => Err(refusal),
        },
        SessionRequest::Attach(request) => {
            let entry = kept.find(&request.name);
            match entry {
                Ok(entry) => match View::attach(connection, &entry, &request)? {
                    Ok(mut view) => return view.serve().map(|()| true),
                    Err(refusal) => Err(refusal),
                },
                Err(refusal) => Err(refusal),
            }
        }
    };
    match answer {
        Ok(reply) => connection.send(&AgentMessage::Session(reply))?,
        Err(refusal) => connection.send(&refusal)?,
    }
    Ok(false)
}

/// Asks the program and all it started to end; what has not after the grace is killed.
fn stop(entry: &Entry, grace: Duration) {
    let mut shared = entry.lock();
    if !shared.record.state.is_live() {
        return;
    }
    let by = Instant::now() + grace;
    shared.stop_by = Some(shared.stop_by.map_or(by, |earlier| earlier.min(by)));
    if let Some(program) = shared.program.as_ref().filter(|_| !grace.is_zero()) {
        // An interactive shell takes no SIGTERM, but the loss of its terminal.
        if program.terminal.is_some() {
            entry.group.signal(program.pid, Signal::HUP);
        }
        entry.group.signal(program.pid, Signal::TERM);
        entry.group.signal(program.pid, Signal::CONT);
    }
    drop(shared);
    entry.keeper.wake();
}

fn wait_for_end(connection: &Connection, entry: &Entry) -> io::Result<SessionInfo> {
    loop {
        let info = entry.wait_for_end(LOOK);
        if !info.state.is_live() {
            return Ok(info);
        }
        if connection.is_gone() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

fn send(entry: &Entry, name: &SessionName, number: i32) -> Result<SessionInfo, Refusal> {
    let Some(signal) = Signal::from_named_raw(number) else {
        let what = format!("there is no signal {number}");
        return Err(refuse(AgentErrorCode::BadRequest, what, None));
    };
    let shared = entry.lock();
    let Some(program) = &shared.program else {
        let what = format!("the program of the session `{name}` does not run");
        return Err(refuse(AgentErrorCode::Busy, what, None));
    };
    let sent = banger_login::signal_foreground(program.pid, program.terminal.as_ref(), signal);
    sent.map_err(|error| {
        let what = format!("failed to send signal {number}: {error}");
        refuse(AgentErrorCode::Internal, what, None)
    })?;
    Ok(shared.info())
}
