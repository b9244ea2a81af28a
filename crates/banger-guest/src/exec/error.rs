//! Why a program's end is not known.

use std::io;

use banger_guest_proto::{AgentError, AgentErrorCode, FrameError, WindowExceeded};

use crate::link::Lost;

/// Why a program did not start, or its end is not known.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The agent did not start it.
    #[error("the program was not started")]
    Refused(#[source] AgentError),
    /// The connection ended first: the guest went down, or its agent did.
    #[error("the guest went away before the program ended")]
    GuestGone,
    /// The connection failed.
    #[error("the connection to the guest failed")]
    Connection(#[source] io::Error),
    /// What came is not of the protocol.
    #[error("the agent does not speak banger's protocol")]
    Protocol(#[source] FrameError),
    /// A stream's window was ignored.
    #[error("the agent broke the rules of flow control")]
    Window(#[source] WindowExceeded),
    /// A message came that has no place in an exec.
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
    /// The caller was gone, and the program did not end.
    #[error("the program did not end with its input")]
    Overdue,
    /// A signal ended the call.
    #[error("ended by signal {number}")]
    Interrupted {
        /// Linux signal number.
        number: i32,
    },
}

impl ExecError {
    /// The exit code for a command that stands for the program: 127 and 126 as a shell has it for a
    /// program that is not there or cannot be executed, 128 and the number for a signal, 125 for
    /// everything else (banger itself failed).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(error) if error.code == AgentErrorCode::CommandNotFound => 127,
            Self::Refused(error) if error.code == AgentErrorCode::NotExecutable => 126,
            Self::Interrupted { number } => u8::try_from(128 + number).unwrap_or(125),
            _ => 125,
        }
    }
}

impl From<Lost> for ExecError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Gone => Self::GuestGone,
            Lost::Failed(error) => Self::Connection(error),
        }
    }
}
