//! Extended attributes: in the inode where they fit, the others in one block.

use crate::BLOCK;
use crate::encode::{crc, put16, put32};

const MAGIC: u32 = 0xEA02_0000;
/// Room in an inode after its fields: a magic number, entries, four bytes of zeros, values.
pub(crate) const IN_INODE: usize = 96;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];

/// Whether ext4 has attributes of that name.
#[must_use]
pub fn is_storable(name: &[u8], value: &[u8]) -> bool {
    Stored::new(name, value).is_some()
}

/// What setting an access list does to a file's permissions: the nine bits, and whether they say all that the
/// list says, so that it is not kept. `None` when the attribute is no access list.
#[must_use]
pub fn permissions_of(name: &[u8], value: &[u8]) -> Option<(u16, bool)> {
    if name != ACL_ACCESS {
        return None;
    }
    acl(value)?;
    let (mut owner, mut group, mut mask, mut other, mut is_plain) = (0, 0, None, 0, true);
    for entry in value[4..].chunks(8) {
        let permissions = u16::from(entry[2] & 7);
        match entry[0] {
            0x01 => owner = permissions,
            0x04 => group = permissions,
            0x20 => other = permissions,
            0x10 => (mask, is_plain) = (Some(permissions), false),
            _ => is_plain = false,
        }
    }
    Some((owner << 6 | mask.unwrap_or(group) << 3 | other, is_plain))
}

/// An attribute as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stored {
    index: u8,
    /// Sorted by length first.
    length: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Stored {
    fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        let make = |index, name: &[u8], value: Vec<u8>| Self {
            index,
            length: name.len(),
            name: name.to_vec(),
            value,
        };
        if name == ACL_ACCESS || name == ACL_DEFAULT {
            let index = if name == ACL_ACCESS { 2 } else { 3 };
            return Some(make(index, b"", acl(value)?));
        }
        let (prefix, index) = PREFIXES.iter().find(|(p, _)| name.starts_with(p))?;
        let name = &name[prefix.len()..];
        (!name.is_empty() && name.len() <= 255).then(|| make(*index, name, value.to_vec()))
    }

    fn entry_len(&self) -> usize {
        (ENTRY + self.name.len()).next_multiple_of(4)
    }

    fn value_len(&self) -> usize {
        self.value.len().next_multiple_of(4)
    }

    fn len(&self) -> usize {
        self.entry_len() + self.value_len()
    }

    fn hash(&self) -> u32 {
        let mut hash = 0_u32;
        for byte in &self.name {
            hash = hash.rotate_left(5) ^ i32::from(*byte as i8) as u32;
        }
        for word in self.value.chunks(4) {
            let mut bytes = [0; 4];
            bytes[..word.len()].copy_from_slice(word);
            hash = hash.rotate_left(16) ^ u32::from_le_bytes(bytes);
        }
        hash
    }
}

/// An access list as the system calls have it, in ext4's own shorter form; `None` when it is none.
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if *version != 2_u32.to_le_bytes() || !entries.len().is_multiple_of(8) {
        return None;
    }
    let mut stored = 1_u32.to_le_bytes().to_vec();
    for entry in entries.chunks(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        stored.extend_from_slice(&entry[..4]);
        match tag {
            // Named users and groups have an id.
            0x02 | 0x08 => stored.extend_from_slice(&entry[4..]),
            0x01 | 0x04 | 0x10 | 0x20 => {}
            _ => return None,
        }
    }
    Some(stored)
}

/// Attributes, laid out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    inode: Vec<Stored>,
    block: Vec<Stored>,
}

impl Layout {
    /// Where each goes.
    ///
    /// # Errors
    /// How many bytes are too many for a block.
    pub(crate) fn of(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, usize> {
        let stored = xattrs.iter().filter_map(|(n, v)| Stored::new(n, v));
        let mut stored: Vec<Stored> = stored.collect();
        stored.sort();
        // The last one given of a name counts; a sort keeps those of one name by their value only.
        stored.dedup_by(|a, b| (a.index, &a.name) == (b.index, &b.name));
        let mut layout = Self::default();
        let (mut room, mut bytes) = (IN_INODE - 8, 0);
        for attribute in stored {
            if attribute.len() <= room {
                room -= attribute.len();
                layout.inode.push(attribute);
            } else {
                bytes += attribute.len();
                layout.block.push(attribute);
            }
        }
        if bytes > BLOCK - BLOCK_HEADER - 4 {
            return Err(bytes);
        }
        Ok(layout)
    }

    pub(crate) fn needs_block(&self) -> bool {
        !self.block.is_empty()
    }

    /// What stands in the inode.
    pub(crate) fn in_inode(&self) -> [u8; IN_INODE] {
        let mut bytes = [0; IN_INODE];
        if !self.inode.is_empty() {
            put32(&mut bytes, 0, MAGIC);
            put_entries(&mut bytes[4..], 0, &self.inode);
        }
        bytes
    }

    /// What stands in the block, which is at `at`.
    pub(crate) fn in_block(&self, at: u64, seed: u32) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        put32(&mut bytes, 0, MAGIC);
        put32(&mut bytes, 4, 1);
        put32(&mut bytes, 8, 1);
        let hashes: Vec<u32> = self.block.iter().map(Stored::hash).collect();
        let all = hashes
            .iter()
            .fold(0_u32, |all, hash| all.rotate_left(16) ^ hash);
        put32(&mut bytes, 12, if hashes.contains(&0) { 0 } else { all });
        put_entries(&mut bytes, BLOCK_HEADER, &self.block);
        let sum = crc(crc(seed, &at.to_le_bytes()), &bytes);
        put32(&mut bytes, 16, sum);
        bytes
    }
}

/// Entries from `first` on, values at the end; offsets count from the beginning of `to`.
fn put_entries(to: &mut [u8], first: usize, attributes: &[Stored]) {
    let (mut at, mut value_at) = (first, to.len());
    for attribute in attributes {
        value_at -= attribute.value_len();
        to[at] = attribute.name.len() as u8;
        to[at + 1] = attribute.index;
        if !attribute.value.is_empty() {
            put16(to, at + 2, value_at as u16);
        }
        put32(to, at + 8, attribute.value.len() as u32);
        put32(to, at + 12, attribute.hash());
        to[at + ENTRY..][..attribute.name.len()].copy_from_slice(&attribute.name);
        to[value_at..][..attribute.value.len()].copy_from_slice(&attribute.value);
        at += attribute.entry_len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_fits_into_the_inode_and_a_long_value_does_not() {
        let short = (b"security.capability".to_vec(), vec![1; 20]);
        let long = (b"user.note".to_vec(), vec![2; 200]);
        let layout = Layout::of(&[long.clone(), short]).unwrap();
        assert_eq!((layout.inode.len(), layout.block.len()), (1, 1));
        let huge = (b"user.huge".to_vec(), vec![2; 4096]);
        assert!(Layout::of(&[huge, long]).is_err());
    }

    #[test]
    fn names_of_no_known_space_and_malformed_lists_are_not_storable() {
        assert!(is_storable(b"user.a", b""));
        for name in [
            &b"user."[..],
            b"com.apple.provenance",
            b"system.nfs4_acl",
            b"",
        ] {
            assert!(!is_storable(name, b""));
        }
        assert!(!is_storable(ACL_ACCESS, b"short"));
        let list = [
            2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 5, 0, 0, 0,
        ];
        let stored = Stored::new(ACL_ACCESS, &list).unwrap();
        assert_eq!(
            stored.value,
            [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 7, 0, 5, 0, 0, 0]
        );
    }
}
