//! Writes an ext4 file system into a file, in one pass and without root: first the contents of files, in
//! the order in which they come ([`DataWriter`]); then, when it is known which of them are kept and where,
//! everything else ([`format`]). The same input gives the same bytes.
//!
//! And reads a tree out of a finished one ([`read_tree`]), to be written into another.
//!
//! Layout: super block and group descriptors with room to grow, the contents, then journal, directories,
//! attribute and extent blocks, and at the end the bitmaps and inode tables of all groups (`flex_bg` allows
//! them to be anywhere). Free space and unused tables are holes in the file, and are marked so that the
//! kernel writes nothing there either.

mod copy;
mod data;
mod directory;
mod encode;
mod error;
mod extent;
mod format;
mod geometry;
mod groups;
mod hash;
mod inode;
mod journal;
mod placed;
mod plain;
mod read;
mod superblock;
mod tree;
mod xattr;

pub use copy::copy_range;
pub use data::{DataWriter, copy_contents};
pub use error::FormatError;
pub use extent::{Extent, FileData};
pub use format::{Formatted, FsOptions, format};
pub use placed::{Refill, Run};
pub use plain::is_plain;
pub use read::{ReadTree, ReadTreeError, read_tree};
pub use tree::{Attributes, Content, DeviceKind, Names, Node, NodeId, Time, Tree};
pub use xattr::{is_storable, permissions_of};

/// Bytes in a block.
pub const BLOCK: usize = 4096;
/// Longest name of a directory entry.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link.
pub const SYMLINK_MAX: usize = BLOCK - 1;
/// Most names that a file may have.
pub const LINK_MAX: u32 = 65_000;

/// Blocks of a group: as many as a block of bits can tell of.
const GROUP: u64 = 8 * BLOCK as u64;
