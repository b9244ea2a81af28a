//! An inode as it is on disk.

use crate::encode::{crc, put16, put16_split, put32, put32_split};
use crate::geometry::INODE_SIZE;
use crate::{Attributes, Content, DeviceKind, Time, xattr};

pub(crate) const EXTENTS: u32 = 0x8_0000;
pub(crate) const INDEX: u32 = 0x1000;
pub(crate) const REGULAR: u16 = 0o100_000;
pub(crate) const DIRECTORY: u16 = 0o040_000;
const EXTRA: u16 = 32;

/// What an inode says.
#[derive(Debug, Clone)]
pub(crate) struct Inode<'a> {
    pub(crate) kind: u16,
    pub(crate) attributes: &'a Attributes,
    pub(crate) links: u16,
    pub(crate) size: u64,
    /// Blocks of 4 KiB, those of extents and attributes included.
    pub(crate) blocks: u64,
    pub(crate) flags: u32,
    /// Extents, a short link's target, or a device's number.
    pub(crate) body: [u8; 60],
    pub(crate) attribute_block: u64,
    pub(crate) in_inode: [u8; xattr::IN_INODE],
}

pub(crate) fn kind_bits(content: &Content) -> u16 {
    match content {
        Content::Fifo => 0o010_000,
        Content::Device {
            kind: DeviceKind::Character,
            ..
        } => 0o020_000,
        Content::Directory(_) => DIRECTORY,
        Content::Device {
            kind: DeviceKind::Block,
            ..
        } => 0o060_000,
        Content::File(_) => REGULAR,
        Content::Symlink(_) => 0o120_000,
    }
}

/// A device's number: the old form where it fits.
pub(crate) fn device(major: u32, minor: u32) -> [u8; 60] {
    let mut body = [0; 60];
    if major < 256 && minor < 256 {
        put32(&mut body, 0, major << 8 | minor);
    } else {
        put32(
            &mut body,
            4,
            minor & 0xff | major << 8 | (minor & !0xff) << 12,
        );
    }
    body
}

/// What checksums of an inode's structures begin with.
pub(crate) fn seed(fs_seed: u32, number: u32) -> u32 {
    crc(crc(fs_seed, &number.to_le_bytes()), &[0; 4])
}

impl Inode<'_> {
    /// The bytes on disk of the inode of that seed.
    pub(crate) fn encode(&self, seed: u32) -> [u8; INODE_SIZE as usize] {
        let mut bytes = [0; INODE_SIZE as usize];
        let to = &mut bytes;
        let attributes = self.attributes;
        put16(to, 0x00, self.kind | attributes.mode & 0o7777);
        put16_split(to, 0x02, 0x78, attributes.uid);
        put16_split(to, 0x18, 0x7A, attributes.gid);
        put32_split(to, 0x04, 0x6C, self.size);
        put_time(to, 0x08, 0x8C, attributes.atime);
        for (at, extra) in [(0x0C, 0x84), (0x10, 0x88), (0x90, 0x94)] {
            put_time(to, at, extra, attributes.mtime);
        }
        put16(to, 0x1A, self.links);
        let sectors = self.blocks * 8;
        put32(to, 0x1C, sectors as u32);
        put16(to, 0x74, (sectors >> 32) as u16);
        put32(to, 0x20, self.flags);
        to[0x28..0x28 + 60].copy_from_slice(&self.body);
        put32(to, 0x68, self.attribute_block as u32);
        put16(to, 0x76, (self.attribute_block >> 32) as u16);
        put16(to, 0x80, EXTRA);
        to[0xA0..].copy_from_slice(&self.in_inode);
        let sum = crc(seed, to);
        put16_split(to, 0x7C, 0x82, sum);
        bytes
    }
}

/// 34 bits of seconds and 30 of nanoseconds.
fn put_time(to: &mut [u8], at: usize, extra: usize, time: Time) {
    const EARLIEST: i64 = i32::MIN as i64;
    const LATEST: i64 = EARLIEST + (1 << 34) - 1;
    let seconds = time.seconds.clamp(EARLIEST, LATEST);
    let low = seconds as u32;
    let epoch = ((seconds - i64::from(low as i32)) >> 32) as u32;
    put32(to, at, low);
    put32(to, extra, epoch | time.nanoseconds.min(999_999_999) << 2);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_after_2038_are_told() {
        let put = |seconds| {
            let mut to = [0; 8];
            put_time(
                &mut to,
                0,
                4,
                Time {
                    seconds,
                    nanoseconds: 1,
                },
            );
            let low = i32::from_le_bytes([to[0], to[1], to[2], to[3]]);
            (i64::from(low) + (i64::from(to[4] & 3) << 32), to[4] >> 2)
        };
        for seconds in [
            0,
            -1,
            1 << 31,
            (1 << 32) + 5,
            i64::from(i32::MIN),
            15_032_385_535,
        ] {
            assert_eq!(put(seconds), (seconds, 1));
        }
        assert_eq!(put(i64::MAX).0, 15_032_385_535);
        assert_eq!(put(i64::MIN).0, i64::from(i32::MIN));
    }

    #[test]
    fn small_and_large_device_numbers() {
        assert_eq!(device(1, 3)[..8], [3, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(device(259, 300)[..8], [0, 0, 0, 0, 44, 3, 17, 0]);
    }
}
