//! Groups: which blocks and inodes are used, where their tables are, and their descriptors.

use crate::encode::{crc, put16, put16_split, put32_split};
use crate::geometry::{DESCRIPTOR, Geometry};
use crate::{BLOCK, GROUP};

const INODES_UNUSED: u16 = 1;
const BLOCKS_UNUSED: u16 = 2;
/// Unused inodes are zeros on disk: the kernel need not make them so.
const TABLE_IS_ZEROED: u16 = 4;

/// Where a group's tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
}

/// One bit per block of the file system.
#[derive(Debug)]
pub(crate) struct UsedBlocks {
    bits: Vec<u8>,
    blocks: u64,
}

impl UsedBlocks {
    pub(crate) fn new(geometry: &Geometry) -> Self {
        Self {
            bits: vec![0; (geometry.groups * BLOCK as u64) as usize],
            blocks: geometry.blocks,
        }
    }

    pub(crate) fn mark(&mut self, start: u64, count: u64) {
        set_from(&mut self.bits, start, start + count);
    }

    pub(crate) fn has(&self, block: u64) -> bool {
        self.bits[(block / 8) as usize] & 1 << (block % 8) != 0
    }

    pub(crate) fn count(&self, group: u64) -> u64 {
        self.group(group)
            .iter()
            .map(|byte| u64::from(byte.count_ones()))
            .sum()
    }

    /// A group's bits; those beyond the end of the file system are not set.
    pub(crate) fn group(&self, group: u64) -> &[u8] {
        let start = group as usize * BLOCK;
        &self.bits[start..start + BLOCK]
    }

    /// The unused stretches before a block.
    pub(crate) fn holes_before(&self, end: u64) -> Vec<(u64, u64)> {
        let mut holes: Vec<(u64, u64)> = Vec::new();
        for block in (0..end.min(self.blocks)).filter(|block| !self.has(*block)) {
            match holes.last_mut() {
                Some((start, count)) if *start + *count == block => *count += 1,
                _ => holes.push((block, 1)),
            }
        }
        holes
    }
}

/// Which inodes are used: the first so many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UsedInodes {
    pub(crate) count: u64,
}

impl UsedInodes {
    fn of_group(&self, geometry: &Geometry, group: u64) -> u64 {
        let before = group * geometry.inodes_per_group;
        self.count
            .saturating_sub(before)
            .min(geometry.inodes_per_group)
    }
}

/// A group as it is on disk. Bitmaps are there when they are not all zeros.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) descriptor: [u8; DESCRIPTOR],
    pub(crate) block_bitmap: Option<Vec<u8>>,
    pub(crate) inode_bitmap: Option<Vec<u8>>,
    pub(crate) free_blocks: u64,
}

/// Makes a group's descriptor and bitmaps. `directories` are those of the group.
pub(crate) fn encode(
    geometry: &Geometry,
    group: u64,
    tables: &Tables,
    used: (&UsedBlocks, &UsedInodes),
    directories: u32,
    seed: u32,
) -> Group {
    let (blocks, inodes) = used;
    let length = geometry.group_len(group);
    let used_blocks = blocks.count(group);
    let used_inodes = inodes.of_group(geometry, group);
    let is_last = group + 1 == geometry.groups;
    let mut flags = TABLE_IS_ZEROED;
    if used_inodes == 0 {
        flags |= INODES_UNUSED;
    }
    if used_blocks == 0 && !is_last {
        flags |= BLOCKS_UNUSED;
    }
    let mut block_bits = blocks.group(group).to_vec();
    set_from(&mut block_bits, length, GROUP);
    let mut inode_bits = vec![0; BLOCK];
    set_from(&mut inode_bits, 0, used_inodes);
    set_from(&mut inode_bits, geometry.inodes_per_group, GROUP);
    let block_sum = crc(seed, &block_bits);
    let inode_sum = crc(seed, &inode_bits[..geometry.inodes_per_group as usize / 8]);
    let free_blocks = length - used_blocks;
    let free_inodes = geometry.inodes_per_group - used_inodes;

    let mut descriptor = [0; DESCRIPTOR];
    let to = &mut descriptor;
    put32_split(to, 0x00, 0x20, tables.block_bitmap);
    put32_split(to, 0x04, 0x24, tables.inode_bitmap);
    put32_split(to, 0x08, 0x28, tables.inode_table);
    put16_split(to, 0x0C, 0x2C, free_blocks as u32);
    put16_split(to, 0x0E, 0x2E, free_inodes as u32);
    put16_split(to, 0x10, 0x30, directories);
    put16(to, 0x12, flags);
    // What no bitmap stands for has no checksum either.
    if flags & BLOCKS_UNUSED == 0 {
        put16_split(to, 0x18, 0x38, block_sum);
    }
    if flags & INODES_UNUSED == 0 {
        put16_split(to, 0x1A, 0x3A, inode_sum);
    }
    put16_split(to, 0x1C, 0x32, free_inodes as u32);
    let sum = crc(crc(seed, &(group as u32).to_le_bytes()), to);
    put16(to, 0x1E, sum as u16);
    Group {
        descriptor,
        block_bitmap: (flags & BLOCKS_UNUSED == 0).then_some(block_bits),
        inode_bitmap: (flags & INODES_UNUSED == 0).then_some(inode_bits),
        free_blocks,
    }
}

/// Sets the bits of a half-open range.
fn set_from(bits: &mut [u8], from: u64, to: u64) {
    for bit in from..to {
        bits[(bit / 8) as usize] |= 1 << (bit % 8);
    }
}
