//! Why an image was not pulled.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use banger_core::Digest;

use crate::flatten::FlattenError;

/// A document that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct MalformedError {
    what: String,
}

impl MalformedError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

/// Why a registry, or another server, gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or its connection broke again and again.
    #[error("{url} cannot be reached")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why, the last time.
        #[source]
        source: reqwest::Error,
    },
    /// It went on sending nothing.
    #[error("{url} has sent nothing for {} seconds", after.as_secs())]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// It stopped in the middle again and again.
    #[error("{url} stopped after {received} of {size} bytes, again and again")]
    Truncated {
        /// What was asked for.
        url: String,
        /// What came.
        received: u64,
        /// What should have come.
        size: u64,
    },
    /// It wants a log-in, or another one.
    #[error("{host} does not let anybody pull {repository} without (other) credentials")]
    Unauthorized {
        /// The registry.
        host: String,
        /// What was asked for.
        repository: String,
    },
    /// There is no such thing.
    #[error("{host} has no {what}")]
    NotFound {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// It is too busy, or is asked too often.
    #[error("{url} answers {status}, also after some waiting")]
    Busy {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// Another answer that is of no use.
    #[error("{url} answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// It sends from one address to the next.
    #[error("{url} leads in circles, or from an encrypted connection to a plain one")]
    Redirects {
        /// What was asked for.
        url: String,
    },
    /// Longer than it says, or than is ever needed.
    #[error("{url} sends more than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// How much may come.
        limit: u64,
    },
    /// It says another size than the manifest or index.
    #[error("{url} says that it has {actual} bytes; there should be {expected}")]
    Size {
        /// What was asked for.
        url: String,
        /// By the manifest.
        expected: u64,
        /// By the registry.
        actual: u64,
    },
    /// What it sent is something else.
    #[error("{url} has sent sha256:{actual} instead of sha256:{expected}")]
    Digest {
        /// What was asked for.
        url: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Its way of asking for credentials is not understood, or its answer to them.
    #[error("the way in which {host} asks for credentials cannot be used: {why}")]
    Challenge {
        /// The registry.
        host: String,
        /// What is wrong.
        why: &'static str,
    },
    /// No client for it can be made.
    #[error("no encrypted connections can be made")]
    Client(#[source] reqwest::Error),
}

/// A failed pull. Nothing of it is in the image store; layers that came whole are kept for the next try.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// It is not to be asked.
    #[error("`{prefix}` is blocked in registries.conf")]
    Blocked {
        /// What is blocked.
        prefix: String,
    },
    /// The registry.
    #[error("the registry has not delivered the image")]
    Registry(#[source] RegistryError),
    /// Its manifest or configuration.
    #[error("the image {image} cannot be used")]
    Malformed {
        /// Which.
        image: String,
        /// Why.
        #[source]
        source: MalformedError,
    },
    /// It is for other machines.
    #[error("the image is not made for {wanted}; there is {available}")]
    Platform {
        /// This machine's.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// Several images, and none was named; or none of that name.
    #[error("{place} holds {available}; name one behind a colon")]
    WhichImage {
        /// Directory or archive.
        place: String,
        /// What there is.
        available: String,
    },
    /// Layers.
    #[error("the image could not be made a file system")]
    Flatten(#[source] FlattenError),
    /// Credentials.
    #[error("the credentials in {} cannot be used", path.display())]
    Credentials {
        /// The file, or the helper.
        path: PathBuf,
        /// Why.
        #[source]
        source: MalformedError,
    },
    /// A file.
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
    /// Not as much room as what is to be fetched alone needs.
    #[error("{needed} bytes are to be fetched, and there is room for {free}")]
    Room {
        /// How much they need.
        needed: u64,
        /// How much there is.
        free: u64,
    },
    /// Nobody wants it any more.
    #[error("the pull was cancelled")]
    Cancelled,
}

impl From<FlattenError> for PullError {
    fn from(error: FlattenError) -> Self {
        if error.is_cancelled() {
            Self::Cancelled
        } else {
            Self::Flatten(error)
        }
    }
}

impl From<RegistryError> for PullError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl PullError {
    /// Whether what came is not what was wanted, so that no part of it is of use.
    pub(crate) fn is_wrong_content(&self) -> bool {
        let Self::Registry(error) = self else {
            return false;
        };
        matches!(
            error,
            RegistryError::Digest { .. }
                | RegistryError::TooLarge { .. }
                | RegistryError::Size { .. }
        )
    }

    /// Whether the file system was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Flatten(error) => error.is_disk_full(),
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Room { .. } => true,
            _ => false,
        }
    }
}

pub(crate) trait Context<T> {
    fn context(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, PullError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, PullError> {
        self.map_err(|source| PullError::Io {
            what,
            path: path.into(),
            source,
        })
    }
}
