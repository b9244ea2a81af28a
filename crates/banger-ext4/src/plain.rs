//! Whether a file system holds nothing that [`read_tree`](crate::read_tree) leaves out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// `incompat` flags under which the tables stand elsewhere or the sizes are others than here
/// (ext4's Documentation/filesystems/ext4/super.rst): `META_BG`.
const META_BG: u32 = 0x10;
const IS_64BIT: u32 = 0x80;
/// Begins the attributes inside of an inode (attributes.rst).
const XATTR_MAGIC: u32 = 0xea02_0000;
/// A group's inode table was never written (`bg_flags`, group_descr.rst).
const INODE_UNINIT: u16 = 1;
const ROOT: u64 = 2;
const FORMAT: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;
const SOCKET: u16 = 0o140_000;
const CHARACTERS: u16 = 0o020_000;
const BLOCKS: u16 = 0o060_000;
/// The largest inode that is looked at, and the most of them: what says more is no work seed.
const INODE_MAX: u64 = 4096;
const INODES_MAX: u64 = 4_000_000;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Whether there are no extended attributes, no devices or sockets and no file of several names, so that a tree that is
/// read of it is all of it. What cannot be understood is not plain.
///
/// # Errors
/// The file cannot be read, or is shorter than it says.
pub fn is_plain(file: &File) -> io::Result<bool> {
    let mut superblock = [0; 1024];
    file.read_exact_at(&mut superblock, 1024)?;
    let incompat = u32_at(&superblock, 0x60);
    let log_block = u32_at(&superblock, 0x18);
    let per_group = u64::from(u32_at(&superblock, 0x28));
    let inodes = u64::from(u32_at(&superblock, 0));
    let inode_size = u64::from(u16_at(&superblock, 0x58));
    let understood = u16_at(&superblock, 0x38) == 0xef53
        && log_block <= 6
        && incompat & META_BG == 0
        && (1..=inodes).contains(&per_group)
        && inodes <= INODES_MAX
        && (128..=INODE_MAX).contains(&inode_size);
    if !understood {
        return Ok(false);
    }
    let block = 1024_u64 << log_block;
    let descriptor_size = match incompat & IS_64BIT {
        0 => 32,
        _ => u64::from(u16_at(&superblock, 0xfe)).max(32),
    };
    let first_block = u64::from(u32_at(&superblock, 0x14));
    let reserved = u64::from(u32_at(&superblock, 0x54)).max(11) - 1;
    for group in 0..inodes / per_group {
        let mut descriptor = [0; 64];
        let wanted = descriptor_size.min(64) as usize;
        let at = (first_block + 1) * block + group * descriptor_size;
        file.read_exact_at(&mut descriptor[..wanted], at)?;
        if u16_at(&descriptor, 0x12) & INODE_UNINIT != 0 {
            continue;
        }
        let high = u64::from(u32_at(&descriptor, 0x28)) << 32;
        let table = u64::from(u32_at(&descriptor, 8)) | high;
        let unused = u64::from(u16_at(&descriptor, 0x1c));
        let mut inode = vec![0; inode_size as usize];
        for index in 0..per_group.saturating_sub(unused) {
            let number = group * per_group + index + 1;
            if number <= reserved && number != ROOT {
                continue;
            }
            let place = table
                .checked_mul(block)
                .and_then(|at| at.checked_add(index * inode_size));
            let Some(place) = place else { return Ok(false) };
            file.read_exact_at(&mut inode, place)?;
            if !inode_is_plain(&inode) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Of the inode's bytes (inodes.rst).
fn inode_is_plain(inode: &[u8]) -> bool {
    let (mode, links) = (u16_at(inode, 0), u16_at(inode, 0x1a));
    if mode == 0 || links == 0 {
        return true;
    }
    let kind = mode & FORMAT;
    let attributes_block = u32_at(inode, 0x68) != 0 || u16_at(inode, 0x76) != 0;
    let inside = 128 + usize::from(u16_at(inode, 0x80));
    let has_inside =
        inode.len() > 128 && u32_at(inode, inside) == XATTR_MAGIC && u32_at(inode, inside + 4) != 0;
    let is_named_twice = kind != DIRECTORY && links > 1;
    let is_odd = matches!(kind, SOCKET | CHARACTERS | BLOCKS);
    !(attributes_block || has_inside || is_named_twice || is_odd)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Attributes, Content, DataWriter, DeviceKind, FsOptions, Names, Node, NodeId, Tree, format,
    };

    /// A file system with these files in its root directory, and the first of them by a second name.
    fn made(files: &[Node], twice: bool) -> File {
        let mut names: Names = (1..=files.len())
            .map(|id| (format!("file {id}").into_bytes().into(), NodeId(id)))
            .collect();
        if twice {
            names.push((b"again".as_slice().into(), NodeId(1)));
        }
        let mut tree = Tree::empty(0o700);
        tree.nodes[0].content = Content::Directory(names);
        tree.nodes.extend_from_slice(files);
        let writer = DataWriter::new(tempfile::tempfile().unwrap());
        let options = FsOptions::of_work_seed([7; 16], [7; 16], 1);
        format(writer, &tree, &options).unwrap().file
    }

    fn file(attributes: Attributes) -> Node {
        Node {
            attributes,
            content: Content::File(crate::FileData::default()),
        }
    }

    fn of(content: Content) -> Node {
        Node {
            attributes: Attributes::default(),
            content,
        }
    }

    fn with_attribute(bytes: usize) -> Node {
        let value = vec![b'x'; bytes];
        file(Attributes {
            xattrs: vec![(b"user.colour".to_vec(), value)],
            ..Attributes::default()
        })
    }

    #[test]
    fn what_a_tree_is_read_of_whole_is_plain_and_nothing_else() {
        let plain = || file(Attributes::default());
        let device = |kind| Content::Device {
            kind,
            major: 1,
            minor: 3,
        };
        let many = vec![plain(); 5000];
        let odd_at_the_end = [&many[..], &[with_attribute(1)]].concat();
        let cases: [(&str, Vec<Node>, bool, bool); 10] = [
            ("nothing", vec![], false, true),
            ("a file", vec![plain()], false, true),
            (
                "links and pipes",
                vec![
                    of(Content::Symlink(b"x".as_slice().into())),
                    of(Content::Fifo),
                ],
                false,
                true,
            ),
            ("many", many, false, true),
            ("one of many", odd_at_the_end, false, false),
            ("a short attribute", vec![with_attribute(3)], false, false),
            ("a long attribute", vec![with_attribute(3000)], false, false),
            ("two names", vec![plain()], true, false),
            (
                "a device of characters",
                vec![of(device(DeviceKind::Character))],
                false,
                false,
            ),
            (
                "a device of blocks",
                vec![of(device(DeviceKind::Block))],
                false,
                false,
            ),
        ];
        for (what, files, twice, plain) in cases {
            let file = made(&files, twice);
            assert_eq!(is_plain(&file).unwrap(), plain, "{what}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// Whatever the bytes are, it ends.
        #[test]
        fn damage_is_an_answer_or_an_error(
            damage in prop::collection::vec((0..2_u64 << 20, any::<[u8; 4]>()), 1..100)
        ) {
            let file = made(&[file(Attributes::default())], false);
            for (at, bytes) in damage {
                // Most of it is empty: what counts stands in front.
                file.write_all_at(&bytes, at >> (at % 12)).unwrap();
            }
            let _ = is_plain(&file);
        }
    }
}
