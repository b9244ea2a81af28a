//! Why something about a session failed.

use std::io;

use banger_guest_proto::{AgentError, FrameError, OutOfSequence, WindowExceeded};

use crate::link::Lost;

/// Why something about a session (or a forwarded stream) failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The agent is of a build that knows nothing of it.
    #[error("the guest's agent is of banger {version}, which cannot do this yet")]
    Outdated {
        /// Its version.
        version: String,
    },
    /// The agent refused.
    #[error(transparent)]
    Refused(AgentError),
    /// The connection ended: the guest went down, or its agent did.
    #[error("the guest went away")]
    GuestGone,
    /// The connection failed.
    #[error("the connection to the guest failed")]
    Connection(#[source] io::Error),
    /// What came is not of the protocol.
    #[error("the agent does not speak banger's protocol")]
    Protocol(#[source] FrameError),
    /// Bytes are missing, or came twice.
    #[error("the agent's account of the output does not add up")]
    Sequence(#[source] OutOfSequence),
    /// The log's window was ignored.
    #[error("the agent broke the rules of flow control")]
    Window(#[source] WindowExceeded),
    /// A message came that has no place here.
    #[error("the agent gave an answer that does not fit the question")]
    Unexpected,
    /// One of the caller's own streams failed.
    #[error("failed to pass on {stream}")]
    Local {
        /// `standard input`, `standard output` or `standard error`.
        stream: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The caller's terminal could not be switched to raw mode.
    #[error("failed to set up the terminal")]
    Terminal(#[source] io::Error),
    /// Signals could not be watched.
    #[error("failed to watch for signals")]
    Signals(#[source] io::Error),
}

impl SessionError {
    /// Whether the connection was lost, so that one can go on over another.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::GuestGone | Self::Connection(_))
    }
}

impl From<Lost> for SessionError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Gone => Self::GuestGone,
            Lost::Failed(error) => Self::Connection(error),
        }
    }
}
