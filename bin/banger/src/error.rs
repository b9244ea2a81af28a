//! A failed command: what clients of the API see, whoever found it.

use banger_api::ApiError;
use banger_client::ClientError;
use banger_core::ErrorCode;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.message)]
pub(crate) struct CommandError(pub(crate) ApiError);

impl CommandError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ApiError::new(code, message))
    }

    pub(crate) fn because(
        code: ErrorCode,
        message: impl Into<String>,
        error: &dyn std::error::Error,
    ) -> Self {
        let chain = std::iter::successors(Some(error), |error| error.source());
        let causes = chain.map(ToString::to_string).collect();
        Self(ApiError {
            causes,
            ..ApiError::new(code, message)
        })
    }

    pub(crate) fn internal(message: &str, error: &dyn std::error::Error) -> Self {
        Self::because(ErrorCode::Internal, message, error)
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.hint(hint))
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Api(error) => Self(error),
            ClientError::NoDaemon { .. } => {
                Self::because(ErrorCode::DaemonUnavailable, "the daemon does not answer", &error)
            }
            ClientError::Broken(_) => Self::because(ErrorCode::DaemonUnavailable, "the daemon went away", &error)
                .hint("`banger daemon status` shows its log; what it was doing goes on when it is started again"),
            ClientError::Protocol(_) => {
                Self::because(ErrorCode::VersionMismatch, "client and daemon do not understand each other", &error)
            }
        }
    }
}
