//! Why a transfer failed.

use std::io;

use banger_files::{ReceiveError, SendError};
use banger_guest_proto::{AgentError, FrameError, ReadRecordError};

/// Why files were not copied.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The agent cannot do it yet.
    #[error("the agent in the guest (version {version}) is too old to copy files")]
    OldAgent {
        /// Its version.
        version: String,
    },
    /// The agent did not do it.
    #[error("the guest refused")]
    Refused(#[source] AgentError),
    /// The connection failed or ended.
    #[error("the connection to the guest was lost")]
    Connection(#[source] io::Error),
    /// What came is not of the protocol.
    #[error("the agent does not speak banger's protocol")]
    Protocol(#[source] FrameError),
    /// What came is no record.
    #[error("what the guest sent cannot be understood")]
    Record(#[source] ReadRecordError),
    /// A message that has no place there.
    #[error("the agent gave an answer that does not fit the question")]
    Unexpected,
    /// What came cannot be written.
    #[error("failed to write what the guest sent")]
    Receive(#[source] ReceiveError),
    /// A file was asked for.
    #[error("it is no file; a stream takes one file")]
    NotAFile,
    /// Something on this side failed.
    #[error("failed to pass it on")]
    Local(#[source] io::Error),
}

impl TransferError {
    /// Whether the connection itself is what failed.
    #[must_use]
    pub const fn is_connection(&self) -> bool {
        matches!(self, Self::Connection(_))
    }
}

impl From<ReadRecordError> for TransferError {
    fn from(error: ReadRecordError) -> Self {
        match error {
            ReadRecordError::Closed => Self::Connection(io::ErrorKind::UnexpectedEof.into()),
            ReadRecordError::Read(error) => Self::Connection(error),
            error => Self::Record(error),
        }
    }
}

impl From<ReceiveError> for TransferError {
    fn from(error: ReceiveError) -> Self {
        Self::Receive(error)
    }
}

impl From<SendError> for TransferError {
    fn from(error: SendError) -> Self {
        Self::Connection(error.0)
    }
}
