//! What goes wrong with catalogs.

use std::io;
use std::path::PathBuf;

use banger_core::Digest;
use banger_oci::PullError;

/// An index that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedError(pub(crate) String);

/// What is wrong with a compressed file.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not there.
    #[error("it is missing")]
    Missing,
    /// It has another size than the index says.
    #[error("it has {actual} bytes, and the index says {expected}")]
    Size {
        /// By the index.
        expected: u64,
        /// In truth.
        actual: u64,
    },
    /// It is something else than the index says.
    #[error("its content is sha256:{0}")]
    Digest(Digest),
    /// It is no whole zstd stream.
    #[error("it cannot be decompressed")]
    Compression(#[source] io::Error),
    /// It unpacks to more than the index says.
    #[error("it unpacks to more than the {0} bytes that the index says")]
    TooLong(u64),
    /// It unpacks to less than the index says.
    #[error("it unpacks to {actual} bytes, and the index says {expected}")]
    TooShort {
        /// By the index.
        expected: u64,
        /// In truth.
        actual: u64,
    },
}

/// Why a catalog could not be used, or not be made.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It cannot be reached, or does not deliver.
    #[error("the catalog has not delivered what it was asked for")]
    Fetch(#[source] PullError),
    /// There is none.
    #[error("there is no {what} at {place}: it is no catalog, or was never published")]
    Missing {
        /// Which file.
        what: &'static str,
        /// Where.
        place: String,
    },
    /// The signature is not one, or not of this index.
    #[error("the signature of the catalog's index is not right: {0}")]
    Signature(&'static str),
    /// The index was signed by somebody else.
    #[error("the catalog's index is signed with another key than the configured one")]
    UnknownKey,
    /// The index cannot be used.
    #[error("the catalog's index cannot be used")]
    Malformed(#[source] MalformedError),
    /// It is of a later banger.
    #[error("the catalog has the format {0}, which this banger does not know")]
    NewerFormat(u32),
    /// It is older than what was seen of it before.
    #[error("the catalog's index is older ({serial}) than one that was seen there before ({seen})")]
    Older {
        /// Of this one.
        serial: u64,
        /// The highest one.
        seen: u64,
    },
    /// A compressed file.
    #[error("the catalog's file {blob} cannot be used")]
    Blob {
        /// Its name.
        blob: Digest,
        /// Why.
        #[source]
        source: BlobError,
    },
    /// The key to sign with.
    #[error("{} cannot be used as a secret key: {why}", path.display())]
    SecretKey {
        /// Its file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file or folder could not be used.
    #[error("failed to {what} {}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody wants it any more.
    #[error("it was cancelled")]
    Cancelled,
}

impl CatalogError {
    /// Whether the file system was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_disk_full(),
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }

    /// Whether nothing is known against the catalog but that it cannot be reached now.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Fetch(error) if !error.is_disk_full())
    }
}

impl From<PullError> for CatalogError {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Cancelled => Self::Cancelled,
            error => Self::Fetch(error),
        }
    }
}

pub(crate) trait Context<T> {
    fn context(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, CatalogError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, CatalogError> {
        self.map_err(|source| CatalogError::Io {
            what,
            path: path.into(),
            source,
        })
    }
}
