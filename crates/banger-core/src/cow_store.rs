//! The store behind a dm-snapshot: how large it must be so that it can never overflow.
//!
//! The kernel's persistent format (`drivers/md/dm-snap-persistent.c`): one chunk of header, then
//! again and again one chunk of metadata, with 16 bytes for each of the chunks of data after it.
//! When a chunk of metadata is full, the next one is cleared ahead, also behind the last data.

use crate::ByteSize;

/// Bytes in a sector, the kernel's unit.
pub const SECTOR: u64 = 512;

/// Sectors in a chunk, the unit of copying: 16 KiB.
///
/// Every chunk costs 16 bytes of metadata, a place in the kernel's memory, and a flush of the store
/// when it is first written; a large one costs the copying of what the guest did not write. 4 KiB,
/// a block of the guest's, takes four times the metadata and flushes; 64 KiB, as in qcow2, copies up
/// to 60 KiB for a block.
pub const COW_CHUNK_SECTORS: u32 = 32;

const CHUNK: u64 = COW_CHUNK_SECTORS as u64 * SECTOR;
const PER_METADATA_CHUNK: u64 = CHUNK / 16;

/// The size of a store that holds every chunk of an origin of that size.
#[must_use]
pub const fn cow_store_size(origin: ByteSize) -> ByteSize {
    let data = origin.0.div_ceil(CHUNK);
    let metadata = data / PER_METADATA_CHUNK + 1;
    ByteSize((1 + metadata + data) * CHUNK)
}

/// What the kernel made of a store (`struct disk_header` at its beginning, little endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CowStoreState {
    /// Nothing was ever written.
    Fresh,
    /// In use, with chunks of so many sectors.
    Valid {
        /// As it was made; whoever makes a device later cannot change it.
        chunk_sectors: u32,
    },
    /// A write to it failed (the host's disk was full) and the kernel has given it up.
    GivenUp,
    /// Something else.
    Foreign,
}

/// The bytes of a store's header that matter.
pub const COW_HEADER: usize = 16;
/// Where in the header it says whether the store is valid.
pub const COW_VALID_AT: u64 = 4;
const MAGIC: u32 = 0x7041_6e53;

/// Reads a header.
#[must_use]
pub fn cow_store_state(header: &[u8; COW_HEADER]) -> CowStoreState {
    let word = |at: usize| {
        let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        u32::from_le_bytes(bytes)
    };
    match (word(0), word(4), word(8), word(12)) {
        (0, 0, 0, 0) => CowStoreState::Fresh,
        (MAGIC, 0, 1, _) => CowStoreState::GivenUp,
        (MAGIC, _, 1, chunk_sectors) => CowStoreState::Valid { chunk_sectors },
        _ => CowStoreState::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_the_kernel_writes_it() {
        let state = |words: [u32; 4]| {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            cow_store_state(&bytes.try_into().unwrap())
        };
        assert_eq!(state([0; 4]), CowStoreState::Fresh);
        let valid = CowStoreState::Valid { chunk_sectors: 32 };
        assert_eq!(state([MAGIC, 1, 1, 32]), valid);
        assert_eq!(state([MAGIC, 0, 1, 32]), CowStoreState::GivenUp);
        assert_eq!(state([MAGIC, 1, 2, 32]), CowStoreState::Foreign);
        assert_eq!(state([1, 0, 0, 0]), CowStoreState::Foreign);
    }

    /// Fills a store as the kernel does and returns the end of the last chunk it touches.
    fn fill(origin: u64) -> u64 {
        let stride = PER_METADATA_CHUNK + 1;
        let (mut next_free, mut end, mut committed, mut area) = (2, 2, 0, 0);
        for _ in 0..origin.div_ceil(CHUNK) {
            end = end.max(next_free + 1);
            next_free += 1;
            if next_free % stride == 1 {
                next_free += 1;
            }
            committed += 1;
            if committed == PER_METADATA_CHUNK {
                (committed, area) = (0, area + 1);
                end = end.max(1 + stride * area + 1);
            }
        }
        end * CHUNK
    }

    #[test]
    fn it_is_never_too_small_and_hardly_too_large() {
        let area = PER_METADATA_CHUNK * CHUNK;
        let sizes = [1, CHUNK, area - 1, area, area + 1, 3 * area, 8 << 30];
        for origin in sizes {
            let size = cow_store_size(ByteSize(origin)).0;
            assert!(size >= fill(origin), "{origin}");
            assert!(size <= fill(origin) + CHUNK, "{origin}");
        }
    }
}
