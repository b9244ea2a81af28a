//! How large the file system is and where its fixed parts lie.

use crate::{BLOCK, GROUP};

/// Bytes of a group's descriptor.
pub(crate) const DESCRIPTOR: usize = 64;
pub(crate) const INODE_SIZE: u64 = 256;
/// The first inode that is not the file system's own; it is `lost+found`.
pub(crate) const FIRST_INODE: u32 = 11;
/// Blocks kept for descriptors: the file system can be grown online to 1 TiB.
const DESCRIPTOR_BLOCKS: u64 = 128;
/// Super block and descriptors at the beginning of groups that have them.
pub(crate) const RESERVED: u64 = 1 + DESCRIPTOR_BLOCKS;
/// Where there is room, one inode for this many bytes.
const BYTES_PER_INODE: u64 = 16 << 10;
const INODES_PER_GROUP_MAX: u64 = GROUP;

/// Whether a group begins with the super block or a copy of it: the first, and powers of 3, 5 and 7.
pub(crate) fn has_backup(group: u64) -> bool {
    group <= 1
        || [3, 5, 7].into_iter().any(|base| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        })
}

/// Sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) blocks: u64,
    pub(crate) groups: u64,
    pub(crate) inodes_per_group: u64,
}

impl Geometry {
    /// The geometry of a file system of that many blocks with room for that many inodes.
    pub(crate) fn new(blocks: u64, inodes: u64) -> Option<Self> {
        let groups = blocks.div_ceil(GROUP);
        let usual = (blocks * BLOCK as u64 / BYTES_PER_INODE).div_ceil(groups);
        // Some to spare where the contents need more than usual.
        let needed = (inodes + inodes / 4 + 16).div_ceil(groups);
        let per_block = BLOCK as u64 / INODE_SIZE;
        let inodes_per_group = usual.max(needed).next_multiple_of(per_block);
        let is_possible = inodes_per_group <= INODES_PER_GROUP_MAX
            && groups * inodes_per_group <= u64::from(u32::MAX)
            && groups.div_ceil((BLOCK / DESCRIPTOR) as u64) <= DESCRIPTOR_BLOCKS;
        is_possible.then_some(Self {
            blocks,
            groups,
            inodes_per_group,
        })
    }

    pub(crate) fn inodes(&self) -> u64 {
        self.groups * self.inodes_per_group
    }

    /// Blocks of a group's inode table.
    pub(crate) fn table_blocks(&self) -> u64 {
        self.inodes_per_group * INODE_SIZE / BLOCK as u64
    }

    /// Blocks with descriptors.
    pub(crate) fn descriptor_blocks(&self) -> u64 {
        self.groups.div_ceil((BLOCK / DESCRIPTOR) as u64)
    }

    /// Blocks kept for more of them.
    pub(crate) fn growth_blocks(&self) -> u64 {
        DESCRIPTOR_BLOCKS - self.descriptor_blocks()
    }

    /// How many blocks a group has: the last one may be shorter.
    pub(crate) fn group_len(&self, group: u64) -> u64 {
        GROUP.min(self.blocks - group * GROUP)
    }

    /// Groups with copies of the super block, the first one left out.
    pub(crate) fn backups(&self) -> impl Iterator<Item = u64> + use<> {
        (1..self.groups).filter(|group| has_backup(*group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_in_the_groups_that_everybody_expects() {
        let with: Vec<u64> = (0..130).filter(|group| has_backup(*group)).collect();
        assert_eq!(with, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    #[test]
    fn many_files_get_more_inodes_and_too_many_are_refused() {
        let gib = 1 << 18;
        assert_eq!(Geometry::new(8 * gib, 100).unwrap().inodes_per_group, 8192);
        let many = Geometry::new(gib, 200_000).unwrap();
        assert!(many.inodes() >= 250_000);
        assert_eq!(Geometry::new(gib, 1 << 20), None);
    }
}
