//! A tree of files out of a file system, on its way into another one.

use std::collections::VecDeque;
use std::fs::File;
use std::io;

use ext4_view::{Ext4, Ext4Error, FileType, Metadata};

use crate::{Attributes, BLOCK, Content, DataWriter, FileData, Names, Node, NodeId, Time, Tree};

/// The most files of a tree: a damaged file system may be a circle.
const FILES_MAX: usize = 1_000_000;

/// Why there is no tree. What was written of contents belongs to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadTreeError {
    /// The file cannot be looked at.
    #[error("the file system's file cannot be read")]
    Open(#[source] io::Error),
    /// It holds no file system, or a damaged one.
    #[error("the file system cannot be read")]
    Read(#[source] Ext4Error),
    /// There is more than a file system of that size can hold.
    #[error("there is more in the file system than one of its size holds")]
    TooMuch,
    /// The contents cannot be written.
    #[error("the contents cannot be written")]
    Write(#[source] io::Error),
}

impl From<Ext4Error> for ReadTreeError {
    fn from(error: Ext4Error) -> Self {
        Self::Read(error)
    }
}

/// What was read.
#[derive(Debug)]
pub struct ReadTree {
    /// The files; contents are in the writer.
    pub tree: Tree,
    /// The UUID of where they come from.
    pub uuid: [u8; 16],
}

/// Reads what stands at a path of a file system, contents into `to`: all but sockets, devices, extended attributes and
/// the knowledge which names lead to one file ([`is_plain`](crate::is_plain) says whether there are any). Where no
/// directory stands at the path, the tree is empty.
///
/// # Errors
/// See [`ReadTreeError`].
pub fn read_tree(from: File, path: &str, to: &mut DataWriter) -> Result<ReadTree, ReadTreeError> {
    let room = from.metadata().map_err(ReadTreeError::Open)?.len();
    let from = Ext4::load(Box::new(from))?;
    let uuid = *from.uuid().as_bytes();
    let mut copy = Copy { from, to, room };
    let tree = copy.tree(ext4_view::PathBuf::new(path))?;
    Ok(ReadTree { tree, uuid })
}

/// Files on their way from one file system into another.
struct Copy<'a> {
    from: Ext4,
    to: &'a mut DataWriter,
    /// Bytes that may still come.
    room: u64,
}

impl Copy<'_> {
    fn tree(&mut self, root: ext4_view::PathBuf) -> Result<Tree, ReadTreeError> {
        let is_there = match self.from.symlink_metadata(&root) {
            Ok(metadata) => metadata.is_dir(),
            Err(Ext4Error::NotFound) => false,
            Err(error) => return Err(error.into()),
        };
        if !is_there {
            return Ok(Tree::empty(0o700));
        }
        let mut nodes = vec![];
        let mut names_given = 1;
        let mut waiting = VecDeque::from([root]);
        while let Some(path) = waiting.pop_front() {
            let metadata = self.from.symlink_metadata(&path)?;
            let content = match metadata.file_type() {
                FileType::Directory => {
                    let mut names = Names::new();
                    for entry in self.from.read_dir(&path)? {
                        let entry = entry?;
                        let name = entry.file_name();
                        let name: &[u8] = name.as_ref();
                        if matches!(name, b"." | b"..") || !can_be_copied(entry.file_type()?) {
                            continue;
                        }
                        names.push((name.into(), NodeId(names_given)));
                        names_given += 1;
                        waiting.push_back(entry.path());
                    }
                    if names_given > FILES_MAX {
                        return Err(ReadTreeError::TooMuch);
                    }
                    Content::Directory(names)
                }
                FileType::Symlink => {
                    let target = self.from.read_link(&path)?;
                    Content::Symlink(target.as_ref().into())
                }
                FileType::Regular => Content::File(self.file(&path)?),
                _ => Content::Fifo,
            };
            nodes.push(Node {
                attributes: attributes(&metadata),
                content,
            });
        }
        Ok(Tree { nodes })
    }

    fn file(&mut self, path: &ext4_view::PathBuf) -> Result<FileData, ReadTreeError> {
        let mut file = self.from.open(path)?;
        let mut block = [0; BLOCK];
        loop {
            let count = fill(&mut file, &mut block)?;
            let read = &block[..count];
            let left = self.room.checked_sub(count as u64);
            self.room = left.ok_or(ReadTreeError::TooMuch)?;
            let written = match count == BLOCK && read.iter().all(|byte| *byte == 0) {
                true => self.to.skip(BLOCK as u64),
                false => self.to.write(read),
            };
            written.map_err(ReadTreeError::Write)?;
            if count < BLOCK {
                return self.to.finish().map_err(ReadTreeError::Write);
            }
        }
    }
}

/// Reads a whole block, or what is left.
fn fill(file: &mut ext4_view::File, block: &mut [u8; BLOCK]) -> Result<usize, Ext4Error> {
    let mut filled = 0;
    while filled < BLOCK {
        match file.read_bytes(&mut block[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Devices' numbers cannot be read, and a socket is nothing without who made it.
fn can_be_copied(kind: FileType) -> bool {
    matches!(
        kind,
        FileType::Directory | FileType::Regular | FileType::Symlink | FileType::Fifo
    )
}

fn attributes(metadata: &Metadata) -> Attributes {
    let modified = metadata.modified();
    Attributes {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Time {
            seconds: modified.seconds(),
            nanoseconds: modified.nanoseconds(),
        },
        ..Attributes::default()
    }
}
