//! Where a file's bytes are: extents, and the tree of them on disk.

use serde::{Deserialize, Serialize};

use crate::BLOCK;
use crate::encode::{crc, put16, put32};

/// Most blocks in one extent.
pub(crate) const EXTENT_MAX: u32 = 32_768;
const MAGIC: u16 = 0xF30A;
const HEADER: usize = 12;
const ENTRY: usize = 12;
/// Entries in the inode itself.
const IN_INODE: usize = 4;
/// Entries in a block; the last four bytes are the checksum.
const IN_BLOCK: usize = (BLOCK - HEADER - 4) / ENTRY;

/// A stretch of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First block in the file.
    pub(crate) logical: u32,
    /// First block in the file system.
    pub(crate) start: u64,
    /// How many.
    pub(crate) count: u32,
}

/// A regular file's size and where its bytes were put; what is not there is zeros.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileData {
    pub(crate) size: u64,
    pub(crate) extents: Vec<Extent>,
}

impl FileData {
    /// The size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a block; it joins the last extent where it can.
    pub(crate) fn push(&mut self, logical: u32, start: u64) {
        if let Some(last) = self.extents.last_mut()
            && last.count < EXTENT_MAX
            && last.logical + last.count == logical
            && last.start + u64::from(last.count) == start
        {
            last.count += 1;
            return;
        }
        let extent = Extent {
            logical,
            start,
            count: 1,
        };
        self.extents.push(extent);
    }

    pub(crate) fn block_count(&self) -> u64 {
        self.extents.iter().map(|e| u64::from(e.count)).sum()
    }
}

/// How many blocks a tree of that many extents needs outside of the inode; `None` when no tree of two
/// levels of blocks can hold them.
pub(crate) fn blocks_needed(extents: usize) -> Option<usize> {
    if extents <= IN_INODE {
        return Some(0);
    }
    let leaves = extents.div_ceil(IN_BLOCK);
    if leaves <= IN_INODE {
        return Some(leaves);
    }
    let nodes = leaves.div_ceil(IN_BLOCK);
    (nodes <= IN_INODE).then_some(leaves + nodes)
}

/// The tree's root for the inode, and its blocks with their contents. `blocks` are as many as
/// [`blocks_needed`] says.
pub(crate) fn tree(extents: &[Extent], blocks: &[u64], seed: u32) -> ([u8; 60], Vec<Vec<u8>>) {
    let mut root = [0; 60];
    if blocks.is_empty() {
        header(&mut root, extents.len(), IN_INODE, 0);
        put_leaves(&mut root, extents);
        return (root, vec![]);
    }
    let mut contents = Vec::new();
    let mut level = Vec::new();
    let mut free = blocks.iter().copied();
    for (part, at) in extents.chunks(IN_BLOCK).zip(&mut free) {
        let mut block = vec![0; BLOCK];
        header(&mut block, part.len(), IN_BLOCK, 0);
        put_leaves(&mut block, part);
        level.push((part[0].logical, at));
        contents.push(sealed(block, seed));
    }
    let mut depth = 1;
    if level.len() > IN_INODE {
        let lower = std::mem::take(&mut level);
        // `zip` with the iterator first would lose a block.
        for (part, at) in lower.chunks(IN_BLOCK).zip(&mut free) {
            let mut block = vec![0; BLOCK];
            header(&mut block, part.len(), IN_BLOCK, 1);
            put_nodes(&mut block, part);
            level.push((part[0].0, at));
            contents.push(sealed(block, seed));
        }
        depth = 2;
    }
    header(&mut root, level.len(), IN_INODE, depth);
    put_nodes(&mut root, &level);
    (root, contents)
}

fn header(to: &mut [u8], entries: usize, max: usize, depth: u16) {
    put16(to, 0, MAGIC);
    put16(to, 2, entries as u16);
    put16(to, 4, max as u16);
    put16(to, 6, depth);
}

fn put_leaves(to: &mut [u8], extents: &[Extent]) {
    for (index, extent) in extents.iter().enumerate() {
        let at = HEADER + index * ENTRY;
        put32(to, at, extent.logical);
        put16(to, at + 4, extent.count as u16);
        put16(to, at + 6, (extent.start >> 32) as u16);
        put32(to, at + 8, extent.start as u32);
    }
}

fn put_nodes(to: &mut [u8], nodes: &[(u32, u64)]) {
    for (index, (logical, block)) in nodes.iter().enumerate() {
        let at = HEADER + index * ENTRY;
        put32(to, at, *logical);
        put32(to, at + 4, *block as u32);
        put16(to, at + 8, (block >> 32) as u16);
    }
}

fn sealed(mut block: Vec<u8>, seed: u32) -> Vec<u8> {
    let sum = crc(seed, &block[..BLOCK - 4]);
    put32(&mut block, BLOCK - 4, sum);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_join_and_split_where_an_extent_is_full() {
        let mut data = FileData::default();
        for block in 0..EXTENT_MAX + 2 {
            data.push(block, 1000 + u64::from(block));
        }
        data.push(EXTENT_MAX + 10, 5);
        let counts: Vec<u32> = data.extents.iter().map(|extent| extent.count).collect();
        assert_eq!(counts, [EXTENT_MAX, 2, 1]);
    }

    #[test]
    fn a_tree_has_as_many_blocks_as_it_was_said_to_need() {
        for count in [0, 4, 5, 340, 341, 1360, 1361, 200_000] {
            let extents: Vec<Extent> = (0..count)
                .map(|n| Extent {
                    logical: n * 2,
                    start: u64::from(n),
                    count: 1,
                })
                .collect();
            let needed = blocks_needed(extents.len()).unwrap();
            let blocks: Vec<u64> = (0..needed as u64).collect();
            let (_, contents) = tree(&extents, &blocks, 0);
            assert_eq!(contents.len(), needed, "{count} extents");
        }
        assert_eq!(blocks_needed(1 << 20), None);
    }
}
