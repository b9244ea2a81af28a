//! SHA-256 as digests.

use std::io::{self, Read};

use banger_core::Digest;
use sha2::{Digest as _, Sha256};

/// The digest of what was hashed.
pub(crate) fn finish(hash: Sha256) -> Digest {
    Digest::of_sha256(hash.finalize().into())
}

/// Hashes and counts what is read through it.
pub(crate) struct HashingReader<R> {
    input: R,
    hash: Option<Sha256>,
    count: u64,
}

impl<R: Read> HashingReader<R> {
    /// Counts; hashes only when told to.
    pub(crate) fn new(input: R, hashes: bool) -> Self {
        Self {
            input,
            hash: hashes.then(Sha256::new),
            count: 0,
        }
    }

    /// Reads to the end, and says what was read: its digest, and how many bytes.
    pub(crate) fn finish(mut self) -> io::Result<(Option<Digest>, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.hash.map(finish), self.count))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(to)?;
        self.count += count as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(&to[..count]);
        }
        Ok(count)
    }
}

/// The hash of a text, as bytes.
pub(crate) fn bytes_of(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// The digest of bytes.
pub(crate) fn of(bytes: &[u8]) -> Digest {
    finish(Sha256::new_with_prefix(bytes))
}
