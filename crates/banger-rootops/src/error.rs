//! Why an operation of the helper's failed, and how that is told.

use std::io;

use banger_root_proto::{Refusal, RefusalCode};

/// A failed operation: the kind, what was attempted, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct OpError {
    /// The kind.
    pub code: RefusalCode,
    what: String,
    #[source]
    source: Option<io::Error>,
}

impl OpError {
    /// Refused by the helper's own rules.
    #[must_use]
    pub fn refused(code: RefusalCode, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            source: None,
        }
    }

    /// Refused by the system. A full file system and a missing file have kinds of their own.
    #[must_use]
    pub fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let code = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => RefusalCode::DiskFull,
            _ => RefusalCode::System,
        };
        Self {
            code,
            what: what.into(),
            source: Some(source),
        }
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn to_refusal(&self) -> Refusal {
        let causes = self.source.iter().map(ToString::to_string).collect();
        Refusal {
            code: self.code,
            message: self.what.clone(),
            causes,
        }
    }
}

/// Says what was attempted when the system refuses.
pub(crate) trait Context<T> {
    /// Adds what was attempted.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, OpError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, OpError> {
        self.map_err(|source| OpError::system(what(), source))
    }
}
