//! Why a file system was not written.

use std::io;

use crate::NodeId;

/// What does not fit into ext4, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file could not be written or read.
    #[error("the file system's file could not be written")]
    Io(#[source] io::Error),
    /// More names than a file can have.
    #[error("a file has {links} names, more than the 65,000 that ext4 allows")]
    TooManyLinks {
        /// Which.
        node: NodeId,
        /// How many it has.
        links: u64,
    },
    /// Extended attributes that need more than the inode and one block.
    #[error(
        "extended attributes of a file need {bytes} bytes, more than ext4 keeps of one (4 KiB)"
    )]
    AttributesTooLarge {
        /// Whose.
        node: NodeId,
        /// What those that did not fit into the inode need.
        bytes: usize,
    },
    /// A directory that even an index of two levels cannot hold.
    #[error("a directory has too many entries for ext4")]
    DirectoryTooLarge {
        /// Which.
        node: NodeId,
    },
    /// A file in more pieces than an index of extents can hold.
    #[error("a file has too many holes for ext4")]
    TooFragmented {
        /// Which.
        node: NodeId,
    },
    /// More than the size that was asked for, or than ext4 can have.
    #[error("the contents need more than {limit} bytes")]
    TooLarge {
        /// How much there may be.
        limit: u64,
    },
}

impl From<io::Error> for FormatError {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}
