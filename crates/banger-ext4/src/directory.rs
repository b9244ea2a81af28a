//! The blocks of a directory: entries in the order given where one block holds them, else sorted into leaves
//! by hash, below an index of one or two levels.

use crate::encode::{crc, put16, put32};
use crate::hash::half_md4;
use crate::{BLOCK, Content, DeviceKind};

/// The checksum takes the place of the last entry.
const TAIL: usize = 12;
const ROOM: usize = BLOCK - TAIL;
/// Leaves of an index are filled so far: the first new names shall not split them all.
const LEAF_ROOM: usize = ROOM - ROOM / 8;
const HALF_MD4: u8 = 1;
/// Entries of an index: in the directory's first block, and in the others.
const ROOT_ENTRIES: usize = (BLOCK - 32 - 8) / 8;
const NODE_ENTRIES: usize = (BLOCK - 8 - 8) / 8;

/// The kind that an entry tells of the file that it leads to.
pub(crate) fn kind_of(content: &Content) -> u8 {
    match content {
        Content::File(_) => 1,
        Content::Directory(_) => DIRECTORY,
        Content::Device {
            kind: DeviceKind::Character,
            ..
        } => 3,
        Content::Device {
            kind: DeviceKind::Block,
            ..
        } => 4,
        Content::Fifo => 5,
        Content::Symlink(_) => 7,
    }
}

pub(crate) const DIRECTORY: u8 = 2;

/// An entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) inode: u32,
    pub(crate) kind: u8,
}

impl Entry<'_> {
    fn len(&self) -> usize {
        (8 + self.name.len()).next_multiple_of(4)
    }
}

/// What a directory's blocks need to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) inode: u32,
    pub(crate) parent: u32,
    /// Of checksums of this inode.
    pub(crate) seed: u32,
    /// Of names' hashes.
    pub(crate) hash_seed: &'a [u32; 4],
}

/// The blocks, and whether they are an index; `None` when there are too many entries.
pub(crate) fn blocks(place: Place<'_>, entries: &[Entry<'_>]) -> Option<(Vec<Vec<u8>>, bool)> {
    let dots = [dot(b".", place.inode), dot(b"..", place.parent)];
    let size: usize = entries.iter().chain(&dots).map(Entry::len).sum();
    if size <= ROOM {
        let all: Vec<Entry<'_>> = dots.iter().chain(entries).copied().collect();
        return Some((vec![leaf(&all, place.seed)], false));
    }
    let mut hashed: Vec<(u32, Entry<'_>)> = entries
        .iter()
        .map(|entry| (half_md4(entry.name, place.hash_seed), *entry))
        .collect();
    hashed.sort_by(|a, b| (a.0, a.1.name).cmp(&(b.0, b.1.name)));
    let leaves = split(&hashed);
    if leaves.len() <= ROOT_ENTRIES {
        return Some((one_level(place, &leaves), true));
    }
    (leaves.len() <= ROOT_ENTRIES * NODE_ENTRIES).then(|| (two_levels(place, &leaves), true))
}

fn dot(name: &'static [u8], inode: u32) -> Entry<'static> {
    Entry {
        name,
        inode,
        kind: DIRECTORY,
    }
}

/// Entries of a leaf, and the hash that it begins at: odd when its first entry's hash began in the leaf before.
type Leaf<'a> = (u32, Vec<Entry<'a>>);

fn split<'a>(hashed: &[(u32, Entry<'a>)]) -> Vec<Leaf<'a>> {
    let mut leaves: Vec<Leaf<'_>> = Vec::new();
    let (mut used, mut last) = (LEAF_ROOM, None);
    for (hash, entry) in hashed {
        if used + entry.len() > LEAF_ROOM {
            let goes_on = u32::from(last == Some(*hash));
            leaves.push((hash | goes_on, vec![]));
            used = 0;
        }
        used += entry.len();
        last = Some(*hash);
        if let Some((_, entries)) = leaves.last_mut() {
            entries.push(*entry);
        }
    }
    leaves
}

fn one_level(place: Place<'_>, leaves: &[Leaf<'_>]) -> Vec<Vec<u8>> {
    let index: Vec<(u32, u32)> = leaves
        .iter()
        .zip(1..)
        .map(|((hash, _), at)| (*hash, at))
        .collect();
    let mut blocks = vec![root(place, 0, &index)];
    blocks.extend(leaves.iter().map(|(_, entries)| leaf(entries, place.seed)));
    blocks
}

fn two_levels(place: Place<'_>, leaves: &[Leaf<'_>]) -> Vec<Vec<u8>> {
    let nodes = leaves.len().div_ceil(NODE_ENTRIES);
    let index: Vec<(u32, u32)> = leaves
        .iter()
        .zip(1 + nodes as u32..)
        .map(|((hash, _), at)| (*hash, at))
        .collect();
    let parts: Vec<&[(u32, u32)]> = index.chunks(NODE_ENTRIES).collect();
    let top: Vec<(u32, u32)> = parts
        .iter()
        .zip(1..)
        .map(|(part, at)| (part[0].0, at))
        .collect();
    let mut blocks = vec![root(place, 1, &top)];
    for part in parts {
        let mut block = vec![0; BLOCK];
        put16(&mut block, 4, BLOCK as u16);
        put_index(&mut block, 8, NODE_ENTRIES, part, place.seed);
        blocks.push(block);
    }
    blocks.extend(leaves.iter().map(|(_, entries)| leaf(entries, place.seed)));
    blocks
}

fn root(place: Place<'_>, levels: u8, index: &[(u32, u32)]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    put_entry(&mut block, 0, &dot(b".", place.inode), 12);
    put_entry(&mut block, 12, &dot(b"..", place.parent), BLOCK - 12);
    block[28] = HALF_MD4;
    block[29] = 8;
    block[30] = levels;
    put_index(&mut block, 32, ROOT_ENTRIES, index, place.seed);
    block
}

/// The first entry's hash is not written: its place has the counts.
fn put_index(block: &mut [u8], at: usize, limit: usize, index: &[(u32, u32)], seed: u32) {
    for (n, (hash, child)) in index.iter().enumerate() {
        put32(block, at + n * 8, *hash);
        put32(block, at + n * 8 + 4, *child);
    }
    put16(block, at, limit as u16);
    put16(block, at + 2, index.len() as u16);
    let sum = crc(seed, &block[..at + index.len() * 8]);
    // The tail: four bytes reserved, and the checksum, taken as zero.
    let sum = crc(sum, &[0; 8]);
    put32(block, at + limit * 8 + 4, sum);
}

fn leaf(entries: &[Entry<'_>], seed: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    for (n, entry) in entries.iter().enumerate() {
        let is_last = n + 1 == entries.len();
        let length = if is_last { ROOM - at } else { entry.len() };
        put_entry(&mut block, at, entry, length);
        at += length;
    }
    put16(&mut block, ROOM + 4, TAIL as u16);
    block[ROOM + 7] = 0xDE;
    let sum = crc(seed, &block[..ROOM]);
    put32(&mut block, ROOM + 8, sum);
    block
}

fn put_entry(block: &mut [u8], at: usize, entry: &Entry<'_>, length: usize) {
    put32(block, at, entry.inode);
    put16(block, at + 4, length as u16);
    block[at + 6] = entry.name.len() as u8;
    block[at + 7] = entry.kind;
    block[at + 8..][..entry.name.len()].copy_from_slice(entry.name);
}
