//! A file or folder that could not be used: what was attempted, and on what.

use std::io;
use std::path::PathBuf;

/// A failed call, with its path.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what} {}", path.display())]
pub struct FileError {
    /// What was attempted.
    pub what: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Whether the file system was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.source.kind() == io::ErrorKind::StorageFull
    }
}

pub(crate) trait Context<T> {
    fn context(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, FileError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, FileError> {
        self.map_err(|source| FileError {
            what,
            path: path.into(),
            source,
        })
    }
}
