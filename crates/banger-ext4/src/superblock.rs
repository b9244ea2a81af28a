//! The super block.

use crate::encode::{crc, put16, put32, put32_split};
use crate::geometry::{DESCRIPTOR, FIRST_INODE, Geometry, INODE_SIZE};
use crate::{FsOptions, GROUP};

/// Where it stands in the first block.
pub(crate) const OFFSET: usize = 1024;
const SIZE: usize = 1024;
const LOG_BLOCK: u32 = 2;
const NEVER: u16 = 0xFFFF;
/// `has_journal ext_attr resize_inode dir_index`
const COMPAT: u32 = 0x4 | 0x8 | 0x10 | 0x20;
/// `filetype extent 64bit flex_bg`
const INCOMPAT: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// `sparse_super large_file huge_file dir_nlink extra_isize metadata_csum`
const RO_COMPAT: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;
pub(crate) const JOURNAL_INODE: u32 = 8;

/// What the super block says beyond the geometry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u64,
    /// Extents and size of the journal, kept a second time here.
    pub(crate) journal_body: [u8; 60],
    pub(crate) journal_size: u64,
}

/// Its bytes, for the copy in that group.
pub(crate) fn encode(
    geometry: &Geometry,
    counts: &Counts,
    options: &FsOptions,
    group: u64,
) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let to = &mut bytes;
    put32(to, 0x00, geometry.inodes() as u32);
    put32_split(to, 0x04, 0x150, geometry.blocks);
    put32_split(to, 0x0C, 0x158, counts.free_blocks);
    put32(to, 0x10, counts.free_inodes as u32);
    put32(to, 0x18, LOG_BLOCK);
    put32(to, 0x1C, LOG_BLOCK);
    put32(to, 0x20, GROUP as u32);
    put32(to, 0x24, GROUP as u32);
    put32(to, 0x28, geometry.inodes_per_group as u32);
    put32(to, 0x30, options.time);
    put16(to, 0x36, NEVER);
    put16(to, 0x38, 0xEF53);
    // Clean; go on after errors; Linux; of revision 1.
    put16(to, 0x3A, 1);
    put16(to, 0x3C, 1);
    put32(to, 0x40, options.time);
    put32(to, 0x4C, 1);
    put32(to, 0x54, FIRST_INODE);
    put16(to, 0x58, INODE_SIZE as u16);
    put16(to, 0x5A, group as u16);
    put32(to, 0x5C, COMPAT);
    put32(to, 0x60, INCOMPAT);
    put32(to, 0x64, RO_COMPAT);
    to[0x68..0x78].copy_from_slice(&options.uuid);
    let label = &options.label.as_bytes()[..options.label.len().min(16)];
    to[0x78..0x78 + label.len()].copy_from_slice(label);
    put16(to, 0xCE, geometry.growth_blocks() as u16);
    put32(to, 0xE0, JOURNAL_INODE);
    for (index, word) in options.hash_words().into_iter().enumerate() {
        put32(to, 0xEC + index * 4, word);
    }
    // Half of MD4, signed; the journal's inode is kept below.
    to[0xFC] = 1;
    to[0xFD] = 1;
    put16(to, 0xFE, DESCRIPTOR as u16);
    // Mounted with `user_xattr,acl`.
    put32(to, 0x100, 0x4 | 0x8);
    put32(to, 0x108, options.time);
    to[0x10C..0x10C + 60].copy_from_slice(&counts.journal_body);
    put32_split(to, 0x14C, 0x148, counts.journal_size);
    put16(to, 0x15C, 32);
    put16(to, 0x15E, 32);
    put32(to, 0x160, 1);
    // Sixteen groups together; checksums are CRC-32C.
    to[0x174] = 4;
    to[0x175] = 1;
    let sum = crc(!0, &to[..0x3FC]);
    put32(to, 0x3FC, sum);
    bytes
}
