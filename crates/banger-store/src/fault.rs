//! What is wrong with a database that does not work, told apart by what can be done about it.

use rusqlite::{Error, ErrorCode};

use crate::{MigrateError, OpenStoreError, StoreError};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The file system is full.
    Full,
    /// Another program holds it.
    Busy,
    /// It cannot be written, or not be opened at all.
    NoAccess,
    /// It is no database, or not a whole one.
    Damaged,
    /// A newer banger has written it.
    Newer,
    /// Anything else.
    Other,
}

impl Fault {
    fn of(error: &Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::NoAccess
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged,
            _ => Self::Other,
        }
    }
}

impl StoreError {
    /// What is wrong.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Sqlite { source, .. } => Fault::of(source),
            Self::Reserve { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => Fault::Full,
                std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
                    Fault::NoAccess
                }
                _ => Fault::Other,
            },
            Self::Row { .. } => Fault::Damaged,
        }
    }
}

impl OpenStoreError {
    /// What is wrong.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Open { source, .. } => Fault::of(source),
            Self::Migrate { source, .. } => match source {
                MigrateError::Newer { .. } => Fault::Newer,
                MigrateError::Sqlite(source) => Fault::of(source),
            },
        }
    }
}
