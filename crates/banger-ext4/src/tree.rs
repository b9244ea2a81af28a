//! What the file system shall contain.

use serde::{Deserialize, Serialize};

use crate::FileData;

/// A file in a [`Tree`]; several names may lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970. What ext4 cannot tell (before 1901, after 2446) becomes the nearest it can.
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What every file has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Permissions with setuid, setgid and sticky: the low twelve bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last modification, and of everything else that has no time of its own.
    pub mtime: Time,
    /// Time of the last access.
    pub atime: Time,
    /// Extended attributes by full name, as the system calls know them. Names that
    /// [`is_storable`](crate::is_storable) refuses are left out.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A kind of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Of characters.
    Character,
    /// Of blocks.
    Block,
}

/// A directory's names, and what they lead to.
pub type Names = Vec<(Box<[u8]>, NodeId)>;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory: names and what they lead to. A directory stands in exactly one other.
    Directory(Names),
    /// A regular file.
    File(FileData),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A device node.
    Device {
        /// Of what.
        kind: DeviceKind,
        /// Below 4096.
        major: u32,
        /// Below 2^20.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Mode, owner, times, attributes.
    pub attributes: Attributes,
    /// What it is.
    pub content: Content,
}

/// A tree of files. The first node is the root directory; nodes that no name leads to are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The files.
    pub nodes: Vec<Node>,
}

impl Tree {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// A root directory with those permissions, and nothing in it.
    #[must_use]
    pub fn empty(mode: u16) -> Self {
        let attributes = Attributes {
            mode,
            ..Attributes::default()
        };
        let content = Content::Directory(vec![]);
        Self {
            nodes: vec![Node {
                attributes,
                content,
            }],
        }
    }

    /// A file.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }
}
