//! The host's side of the agent in a guest: dialling it through a VM's vsock socket, asking it how
//! the guest is, and running programs.
//!
//! [`AgentClient`] is asynchronous and short-lived: the daemon asks and hangs up. [`exec`] is
//! blocking and owns a whole process's terminal: the CLI gets an open connection from the daemon as
//! a file descriptor ([`GuestAddress::dial`], [`std::os::unix::net::UnixStream`]) and speaks for
//! itself, so that a stream outlives the daemon.

mod agent;
pub mod answer;
mod dial;
pub mod exec;
pub mod files;
pub mod forward;
mod link;
pub mod session;
mod terminal;

pub use agent::{AgentCallError, AgentClient};
pub use banger_guest_proto::{
    AgentError, AgentErrorCode, ExecRequest, ExitStatus, Readiness, ShutdownVerb, Status, TtySize,
};
pub use dial::{DialError, GuestAddress};
pub use terminal::size_of;
