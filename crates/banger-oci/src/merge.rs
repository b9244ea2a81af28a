//! Laying layers over each other, without touching a disk: entries are applied in order, and what remains is
//! the tree that unpacking them as root would have left. Where the specification leaves a choice, what `umoci
//! unpack` does is done.
//!
//! - An entry's parent is found through symbolic links, which never lead out of the root.
//! - A directory over a directory keeps what is in it and gets the new attributes; anything else is replaced.
//! - A hard link leads to the file that its target's name means at that moment, in this layer or one below;
//!   replacing one name later does not change the others.
//! - A whiteout removes what lower layers have left at that name, and an opaque one everything that they have
//!   left in its directory. What this layer has written already stays.
//! - Directories that no entry tells of are root's, 0755, of 1970; they inherit a setgid bit and its group.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use banger_ext4::{Attributes, Content, FileData, NAME_MAX, Node, NodeId, SYMLINK_MAX, Tree};

use crate::path::{self, Shown};
use crate::tar::{Entry, EntryKind};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// As many links as the kernel follows in one path, and then some.
const LINKS_MAX: usize = 255;
/// Longest path, before and after links are followed.
const PATH_MAX: usize = 4096;
/// Names, links' targets and attributes of all entries together.
const METADATA_MAX: u64 = 512 << 20;

/// Why an entry cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Its name, or a part of it, is too long for Linux.
    #[error("the name {0} is too long")]
    NameTooLong(Shown),
    /// Links in its path lead to each other.
    #[error("the path of {0} leads through too many symbolic links")]
    TooManyLinks(Shown),
    /// A part of its path is a file.
    #[error("the path of {0} leads through something that is not a directory")]
    NotADirectory(Shown),
    /// The root directory can only be a directory.
    #[error("{0} would replace the root directory by something else")]
    Root(Shown),
    /// A whiteout of no name, or of `.` or `..`.
    #[error("{0} is a whiteout of nothing")]
    Whiteout(Shown),
    /// A hard link to something that is not there, or to a directory.
    #[error("{name} is a hard link to {target}, which is {what}")]
    HardLink {
        /// The link.
        name: Shown,
        /// What it should lead to.
        target: Shown,
        /// Why it cannot.
        what: &'static str,
    },
    /// A symbolic link without a target, or with one that is too long.
    #[error("{0} is a symbolic link whose target is empty or too long")]
    Symlink(Shown),
    /// Names and attributes that are made to fill memory.
    #[error("the image's names and attributes need more than {0} bytes")]
    TooMuchMetadata(u64),
    /// More files than an image can sensibly have.
    #[error("the image has more than {0} files")]
    TooManyFiles(usize),
}

#[derive(Debug)]
enum Kind {
    Directory(BTreeMap<Box<[u8]>, Name>),
    Other(Content),
}

#[derive(Debug)]
struct File {
    attributes: Attributes,
    kind: Kind,
}

/// A name in a directory: what it leads to, and the layer that wrote it last.
#[derive(Debug, Clone, Copy)]
struct Name {
    file: usize,
    layer: u32,
}

/// The tree so far.
#[derive(Debug)]
pub struct Merger {
    files: Vec<File>,
    layer: u32,
    files_max: usize,
    metadata: u64,
}

/// A path whose links were followed: names from the root, and where they lead as far as they exist.
type Walk = Vec<(Vec<u8>, Option<usize>)>;

impl Merger {
    /// An empty root directory; at most so many files.
    #[must_use]
    pub fn new(files_max: usize) -> Self {
        Self {
            files: vec![File::implied()],
            layer: 0,
            files_max,
            metadata: 0,
        }
    }

    /// What comes now belongs to the next layer.
    pub fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Applies an entry. `data` is what became of a regular file's content.
    ///
    /// # Errors
    /// See [`MergeError`].
    pub fn apply(&mut self, entry: Entry, data: FileData) -> Result<(), MergeError> {
        self.count(&entry)?;
        let shown = || Shown::new(&entry.name);
        let parts = path::clean(&entry.name);
        if entry.name.len() > PATH_MAX || parts.iter().any(|part| part.len() > NAME_MAX) {
            return Err(MergeError::NameTooLong(shown()));
        }
        let Some((name, parents)) = parts.split_last() else {
            if entry.kind != EntryKind::Directory {
                return Err(MergeError::Root(shown()));
            }
            self.files[0].attributes = entry.attributes;
            return Ok(());
        };
        let walk = self.walk(parents, &entry.name)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(&walk, name, hidden, &entry.name);
        }
        let parent = self.make_parents(&walk, &entry.name)?;
        let existing = self
            .names(parent)
            .and_then(|names| names.get(*name))
            .map(|n| n.file);
        if entry.kind == EntryKind::Directory
            && let Some(file) = existing
            && let Kind::Directory(_) = self.files[file].kind
        {
            self.files[file].attributes = entry.attributes;
            self.put(parent, name, file);
            return Ok(());
        }
        if let Some(names) = self.names_mut(parent) {
            names.remove(*name);
        }
        let file = match entry.kind {
            EntryKind::HardLink(ref target) => self.link_target(target, &entry.name)?,
            kind => {
                let kind = match kind {
                    EntryKind::File => Kind::Other(Content::File(data)),
                    EntryKind::Directory => Kind::Directory(BTreeMap::new()),
                    EntryKind::Symlink(target) => {
                        if target.is_empty() || target.len() > SYMLINK_MAX || target.contains(&0) {
                            return Err(MergeError::Symlink(Shown::new(&entry.name)));
                        }
                        Kind::Other(Content::Symlink(target.into()))
                    }
                    EntryKind::Device { kind, major, minor } => {
                        Kind::Other(Content::Device { kind, major, minor })
                    }
                    EntryKind::Fifo | EntryKind::HardLink(_) => Kind::Other(Content::Fifo),
                };
                let mut attributes = entry.attributes;
                if let Kind::Other(Content::Symlink(_)) = kind {
                    attributes.mode = 0o777;
                }
                self.add(File { attributes, kind })?
            }
        };
        self.put(parent, name, file);
        Ok(())
    }

    fn count(&mut self, entry: &Entry) -> Result<(), MergeError> {
        let target = match &entry.kind {
            EntryKind::Symlink(target) | EntryKind::HardLink(target) => target.len(),
            _ => 0,
        };
        let attributes = entry.attributes.xattrs.iter();
        let attributes: usize = attributes
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.metadata += (entry.name.len() + target + attributes) as u64;
        if self.metadata > METADATA_MAX {
            return Err(MergeError::TooMuchMetadata(METADATA_MAX));
        }
        Ok(())
    }

    /// The merged tree, names in order.
    #[must_use]
    pub fn finish(self) -> Tree {
        let nodes = self.files.into_iter().map(|file| Node {
            attributes: file.attributes,
            content: match file.kind {
                Kind::Other(content) => content,
                Kind::Directory(names) => {
                    let names = names.into_iter();
                    Content::Directory(names.map(|(name, to)| (name, NodeId(to.file))).collect())
                }
            },
        });
        Tree {
            nodes: nodes.collect(),
        }
    }

    fn names(&self, file: usize) -> Option<&BTreeMap<Box<[u8]>, Name>> {
        match &self.files[file].kind {
            Kind::Directory(names) => Some(names),
            Kind::Other(_) => None,
        }
    }

    fn names_mut(&mut self, file: usize) -> Option<&mut BTreeMap<Box<[u8]>, Name>> {
        match &mut self.files[file].kind {
            Kind::Directory(names) => Some(names),
            Kind::Other(_) => None,
        }
    }

    fn lookup(&self, directory: Option<usize>, name: &[u8]) -> Option<usize> {
        self.names(directory?)?.get(name).map(|name| name.file)
    }

    fn add(&mut self, file: File) -> Result<usize, MergeError> {
        if self.files.len() >= self.files_max {
            return Err(MergeError::TooManyFiles(self.files_max));
        }
        self.files.push(file);
        Ok(self.files.len() - 1)
    }

    fn put(&mut self, directory: usize, name: &[u8], file: usize) {
        let layer = self.layer;
        if let Some(names) = self.names_mut(directory) {
            names.insert(name.into(), Name { file, layer });
        }
    }

    /// Follows a path from the root. What does not exist is taken by its name.
    fn walk(&self, parts: &[&[u8]], shown: &[u8]) -> Result<Walk, MergeError> {
        let mut open: Vec<&[u8]> = parts.iter().rev().copied().collect();
        let mut walk: Walk = Vec::new();
        let (mut links, mut length) = (0, 0);
        while let Some(part) = open.pop() {
            match part {
                b"" | b"." => continue,
                b".." => {
                    walk.pop();
                    continue;
                }
                _ => {}
            }
            length += part.len() + 1;
            if length > PATH_MAX * 16 {
                return Err(MergeError::NameTooLong(Shown::new(shown)));
            }
            let at = walk.last().map_or(Some(0), |(_, file)| *file);
            let file = self.lookup(at, part);
            if let Some(file) = file
                && let Kind::Other(Content::Symlink(target)) = &self.files[file].kind
            {
                links += 1;
                if links > LINKS_MAX {
                    return Err(MergeError::TooManyLinks(Shown::new(shown)));
                }
                if target.first() == Some(&b'/') {
                    walk.clear();
                }
                open.extend(target.rsplit(|byte| *byte == b'/'));
                continue;
            }
            walk.push((part.to_vec(), file));
        }
        Ok(walk)
    }

    /// Makes what is missing of a directory's path, and marks all of it as this layer's.
    fn make_parents(&mut self, walk: &Walk, shown: &[u8]) -> Result<usize, MergeError> {
        let layer = self.layer;
        let mut at = 0;
        for (name, _) in walk {
            let next = self.files.len();
            if next >= self.files_max {
                return Err(MergeError::TooManyFiles(self.files_max));
            }
            let Some(names) = self.names_mut(at) else {
                return Err(MergeError::NotADirectory(Shown::new(shown)));
            };
            if let Some(known) = names.get_mut(name.as_slice()) {
                known.layer = layer;
                at = known.file;
                continue;
            }
            names.insert(name.as_slice().into(), Name { file: next, layer });
            // As mkdir(2) does: in a directory with the setgid bit, its group and the bit are inherited.
            let mut made = File::implied();
            let parent = &self.files[at].attributes;
            if parent.mode & 0o2000 != 0 {
                made.attributes.mode |= 0o2000;
                made.attributes.gid = parent.gid;
            }
            self.files.push(made);
            at = next;
        }
        if self.names(at).is_none() {
            return Err(MergeError::NotADirectory(Shown::new(shown)));
        }
        Ok(at)
    }

    fn link_target(&self, target: &[u8], name: &[u8]) -> Result<usize, MergeError> {
        let refused = |what| MergeError::HardLink {
            name: Shown::new(name),
            target: Shown::new(target),
            what,
        };
        let parts = path::clean(target);
        let (last, parents) = parts.split_last().ok_or_else(|| refused("a directory"))?;
        let walk = self.walk(parents, name)?;
        let at = walk.last().map_or(Some(0), |(_, file)| *file);
        let file = self.lookup(at, last).ok_or_else(|| refused("not there"))?;
        match self.files[file].kind {
            Kind::Directory(_) => Err(refused("a directory")),
            Kind::Other(_) => Ok(file),
        }
    }

    fn whiteout(
        &mut self,
        walk: &Walk,
        name: &[u8],
        hidden: &[u8],
        shown: &[u8],
    ) -> Result<(), MergeError> {
        let directory = walk.last().map_or(Some(0), |(_, file)| *file);
        if name == OPAQUE {
            if let Some(directory) = directory {
                self.purge_all(directory);
            }
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(MergeError::Whiteout(Shown::new(shown)));
        }
        if let Some(directory) = directory {
            self.purge(directory, hidden);
        }
        Ok(())
    }

    /// Removes a name, or what is below it, as far as this layer has not written it.
    fn purge(&mut self, directory: usize, name: &[u8]) {
        let layer = self.layer;
        let Some(names) = self.names_mut(directory) else {
            return;
        };
        if let Slot::Occupied(slot) = names.entry(name.into()) {
            if slot.get().layer == layer {
                let file = slot.get().file;
                self.purge_all(file);
            } else {
                slot.remove();
            }
        }
    }

    /// The same for everything in a directory.
    fn purge_all(&mut self, directory: usize) {
        let mut open = vec![directory];
        while let Some(directory) = open.pop() {
            let layer = self.layer;
            if let Some(names) = self.names_mut(directory) {
                names.retain(|_, name| name.layer == layer);
                open.extend(names.values().map(|name| name.file));
            }
        }
    }
}

impl File {
    fn implied() -> Self {
        Self {
            attributes: Attributes {
                mode: 0o755,
                ..Attributes::default()
            },
            kind: Kind::Directory(BTreeMap::new()),
        }
    }
}

#[cfg(test)]
mod tests;
