//! A stretch of a file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

/// Reads a stretch of a file, by position: other readers of it do not matter.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl<'a> Part<'a> {
    /// So many bytes from there on.
    pub(crate) fn new(file: &'a File, at: u64, length: u64) -> Self {
        let left = length;
        Self { file, at, left }
    }
}

impl Read for Part<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let want = to
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut to[..want], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
