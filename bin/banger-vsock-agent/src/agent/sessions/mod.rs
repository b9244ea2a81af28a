//! Sessions: programs that are kept for clients (`docs/sessions.md`). Each has a thread, the
//! [`keeper`], that puts its output into a bounded [`log`]; clients come and go ([`view`]). What of it
//! outlives the agent is in a folder of its own ([`record`]).

mod entry;
mod group;
mod keeper;
mod log;
mod record;
mod requests;
mod table;
mod view;

use std::sync::Arc;

use banger_guest_proto::{AgentError, AgentErrorCode, AgentMessage};

pub(super) use requests::serve;
pub(super) use table::Sessions;

use super::state::State;

/// Why a request is not done.
type Refusal = Box<AgentMessage>;

fn refuse(code: AgentErrorCode, message: String, hint: Option<&str>) -> Refusal {
    Box::new(AgentMessage::Error(AgentError {
        code,
        message,
        hint: hint.map(str::to_owned),
    }))
}

/// Starts the sessions that were cut off by the guest's end and shall come back with it.
pub(super) fn start_again(state: &Arc<State>) {
    let shared = Arc::clone(state);
    let started = std::thread::Builder::new()
        .name("sessions".to_owned())
        .spawn(move || shared.kept().start_again(&shared));
    if let Err(error) = started {
        state.problem(format!("failed to start sessions again: {error}"));
    }
}
