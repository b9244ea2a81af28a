//! The digest of a root file system: SHA-256 over its size and each stretch of data (offset, length and
//! bytes, numbers as u64 LE), zero blocks left out, so that holes cost nothing and do not matter.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use banger_core::Digest;
use sha2::{Digest as _, Sha256};

use crate::sparse::extents;

const BLOCK: usize = 64 << 10;

/// The digest of a file's content.
///
/// # Panics
/// Never: a SHA-256 in hexadecimal is a digest.
pub(crate) fn of_file(file: &File) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    hash.update(file.metadata()?.len().to_le_bytes());
    let mut buffer = vec![0; BLOCK];
    for (offset, length) in extents(file)? {
        // Aligned, so that where holes begin does not matter.
        let mut at = offset / BLOCK as u64 * BLOCK as u64;
        while at < offset + length {
            let count = read_up_to(file, &mut buffer, at)?;
            if buffer[..count].iter().any(|byte| *byte != 0) {
                hash.update(at.to_le_bytes());
                hash.update((count as u64).to_le_bytes());
                hash.update(&buffer[..count]);
            }
            at += BLOCK as u64;
        }
    }
    Ok(Digest::of_sha256(hash.finalize().into()))
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_do_not_matter_and_bytes_do() {
        let (a, b) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        for file in [&a, &b] {
            file.set_len(1 << 20).unwrap();
            file.write_all_at(b"data", 700_000).unwrap();
        }
        b.write_all_at(&[0; 4096], 0).unwrap();
        assert_eq!(of_file(&a).unwrap(), of_file(&b).unwrap());
        b.write_all_at(b"x", 1).unwrap();
        assert_ne!(of_file(&a).unwrap(), of_file(&b).unwrap());
    }
}
