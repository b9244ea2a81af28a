//! Why an image was not built.

use std::io;
use std::path::PathBuf;

use crate::file_error::FileError;

/// A failed build. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no such recipe.
    #[error("there is no recipe `{0}`")]
    NoRecipe(String),
    /// A recipe of ours is malformed.
    #[error("the recipe cannot be read: {0}")]
    Recipe(String),
    /// A step's program failed.
    #[error("the step `{step}` failed: `{argv}` ({status}); the log is {}", log.display())]
    Step {
        /// Which step.
        step: &'static str,
        /// The command line.
        argv: String,
        /// How it ended.
        status: String,
        /// The last lines that it said.
        tail: Vec<String>,
        /// Whether a file system was full, by what it said.
        disk_full: bool,
        /// All that it said.
        log: PathBuf,
    },
    /// A program is missing.
    #[error("`{program}` is not installed (Debian package {package})")]
    Missing {
        /// The program.
        program: String,
        /// Where it comes from.
        package: &'static str,
    },
    /// A file could not be used.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The image carries something of the build host.
    #[error("the image carries traces of the build host: {}", .0.join(", "))]
    Leak(Vec<String>),
    /// Whoever asked does not want it any more.
    #[error("the build was cancelled")]
    Cancelled,
}

impl BuildError {
    /// Whether the file system was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io(error) => error.is_disk_full(),
            Self::Step { disk_full, .. } => *disk_full,
            _ => false,
        }
    }

    /// The same for others to tell, of the kind that it is.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Io(error) => error.source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }

    /// The last lines of a failed step.
    #[must_use]
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Step { tail, .. } => tail,
            _ => &[],
        }
    }
}
