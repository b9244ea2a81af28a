//! Numbers in structures on disk, and their checksums.

pub(crate) fn put16(to: &mut [u8], at: usize, value: u16) {
    to[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put32(to: &mut [u8], at: usize, value: u32) {
    to[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put32_be(to: &mut [u8], at: usize, value: u32) {
    to[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// The low 16 bits at one place, the high ones at another.
pub(crate) fn put16_split(to: &mut [u8], low: usize, high: usize, value: u32) {
    put16(to, low, value as u16);
    put16(to, high, (value >> 16) as u16);
}

/// The low 32 bits at one place, the high ones at another.
pub(crate) fn put32_split(to: &mut [u8], low: usize, high: usize, value: u64) {
    put32(to, low, value as u32);
    put32(to, high, (value >> 32) as u32);
}

/// CRC-32C going on from `seed`, without the usual inversion at the end.
pub(crate) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}
