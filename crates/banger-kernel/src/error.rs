//! Why a kernel was not imported.

use std::io;
use std::path::PathBuf;

/// A failed import. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
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
    /// A program failed.
    #[error("`{argv}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        argv: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        stderr: String,
    },
    /// A program is missing.
    #[error("`{program}` is not installed (Debian package {package})")]
    Missing {
        /// The program.
        program: &'static str,
        /// Where it comes from.
        package: &'static str,
    },
    /// The file is no kernel.
    #[error("{} is not a Linux kernel for this machine: {why}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The file is no initramfs.
    #[error("{} is no initramfs: {why}", path.display())]
    NotAnInitrd {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Another kernel has the name.
    #[error("there is another kernel `{0}`")]
    NameTaken(String),
    /// The name cannot be one.
    #[error("the kernel's release `{0}` makes no name; give one with --name")]
    NoName(String),
    /// Whoever asked does not want it any more.
    #[error("the import was cancelled")]
    Cancelled,
}

impl ImportError {
    /// Whether the file system was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Command { stderr, .. } => stderr.contains("No space left on device"),
            _ => false,
        }
    }
}

pub(crate) trait Context<T> {
    fn context(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, ImportError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, ImportError> {
        self.map_err(|source| ImportError::Io {
            what,
            path: path.into(),
            source,
        })
    }
}
