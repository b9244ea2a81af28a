//! The contents of files, written as they come. Where nothing can be seen but zeros, nothing is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::geometry::{RESERVED, has_backup};
use crate::{BLOCK, FileData, GROUP};

/// So many blocks of zeros in a row become a hole; fewer are written, to keep files in one piece.
const HOLE_MIN: u64 = 16;
const BUFFER: usize = 1 << 20;
/// A file's blocks are numbered in 32 bits.
const FILE_BLOCKS_MAX: u64 = u32::MAX as u64;

/// Hands out blocks in order; the beginnings of groups that hold copies of the super block are left out.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    next: u64,
}

impl Cursor {
    pub(crate) fn new() -> Self {
        Self { next: RESERVED }
    }

    /// The first block that was not handed out.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    pub(crate) fn take(&mut self) -> u64 {
        self.leave_out_copies();
        self.next += 1;
        self.next - 1
    }

    /// So many blocks in one piece.
    pub(crate) fn take_together(&mut self, count: u64) -> u64 {
        self.leave_out_copies();
        loop {
            let group = (self.next + count - 1) / GROUP;
            let start = group * GROUP;
            if start <= self.next || !has_backup(group) {
                break;
            }
            self.next = start + RESERVED;
        }
        self.next += count;
        self.next - count
    }

    fn leave_out_copies(&mut self) {
        if self.next.is_multiple_of(GROUP) && has_backup(self.next / GROUP) {
            self.next += RESERVED;
        }
    }
}

/// Writes the contents of files, one after another.
#[derive(Debug)]
pub struct DataWriter {
    pub(crate) file: File,
    pub(crate) cursor: Cursor,
    buffer: Vec<u8>,
    buffer_at: u64,
    /// The file being written.
    current: FileData,
    blocks: u64,
    zeros: u64,
    partial: Vec<u8>,
}

impl DataWriter {
    /// Writes into an empty file, which must be readable as well.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self {
            file,
            cursor: Cursor::new(),
            buffer: Vec::with_capacity(BUFFER),
            buffer_at: 0,
            current: FileData::default(),
            blocks: 0,
            zeros: 0,
            partial: Vec::with_capacity(BLOCK),
        }
    }

    /// Bytes of the file system that are taken so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.cursor.position() * BLOCK as u64
    }

    /// Adds bytes to the file being written.
    ///
    /// # Errors
    /// They cannot be written, or the file is larger than ext4 can have (16 TiB).
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.current.size += bytes.len() as u64;
        if !self.partial.is_empty() {
            let missing = bytes.len().min(BLOCK - self.partial.len());
            self.partial.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.partial.len() < BLOCK {
                return Ok(());
            }
            let block = std::mem::take(&mut self.partial);
            self.block(&block)?;
            self.partial = block;
            self.partial.clear();
        }
        let whole = bytes.len() / BLOCK * BLOCK;
        for block in bytes[..whole].chunks_exact(BLOCK) {
            self.block(block)?;
        }
        self.partial.extend_from_slice(&bytes[whole..]);
        Ok(())
    }

    /// Adds zeros that need not be written.
    ///
    /// # Errors
    /// See [`DataWriter::write`].
    pub fn skip(&mut self, mut count: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let missing = (BLOCK - self.partial.len()) % BLOCK;
        let first = count.min(missing as u64);
        self.write(&ZEROS[..first as usize])?;
        count -= first;
        let whole = count / BLOCK as u64;
        self.zeros += whole;
        self.blocks = self.blocks.saturating_add(whole);
        self.check_size()?;
        self.current.size += whole * BLOCK as u64;
        self.write(&ZEROS[..(count % BLOCK as u64) as usize])
    }

    /// Ends the file being written; the next bytes belong to another one.
    ///
    /// # Errors
    /// See [`DataWriter::write`].
    pub fn finish(&mut self) -> io::Result<FileData> {
        if !self.partial.is_empty() {
            self.partial.resize(BLOCK, 0);
            let block = std::mem::take(&mut self.partial);
            self.block(&block)?;
            self.partial = block;
            self.partial.clear();
        }
        self.settle_zeros()?;
        self.blocks = 0;
        Ok(std::mem::take(&mut self.current))
    }

    fn block(&mut self, block: &[u8]) -> io::Result<()> {
        self.blocks += 1;
        self.check_size()?;
        if is_zero(block) {
            self.zeros += 1;
            return Ok(());
        }
        self.blocks -= 1;
        self.settle_zeros()?;
        self.blocks += 1;
        self.put(self.blocks - 1, block)
    }

    fn check_size(&self) -> io::Result<()> {
        if self.blocks > FILE_BLOCKS_MAX {
            let what = "a file is larger than ext4 can have (16 TiB)";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        Ok(())
    }

    /// Zeros before the block that comes now: a hole when they are many.
    fn settle_zeros(&mut self) -> io::Result<()> {
        let zeros = std::mem::take(&mut self.zeros);
        if zeros < HOLE_MIN {
            for index in self.blocks - zeros..self.blocks {
                self.put(index, &[0; BLOCK])?;
            }
        }
        Ok(())
    }

    fn put(&mut self, logical: u64, block: &[u8]) -> io::Result<()> {
        let at = self.cursor.take();
        let is_next = self.buffer_at + (self.buffer.len() / BLOCK) as u64 == at;
        if !is_next || self.buffer.len() == BUFFER {
            self.flush()?;
            self.buffer_at = at;
        }
        self.buffer.extend_from_slice(block);
        self.current.push(logical as u32, at);
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file
            .write_all_at(&self.buffer, self.buffer_at * BLOCK as u64)?;
        self.buffer.clear();
        Ok(())
    }
}

fn is_zero(block: &[u8]) -> bool {
    // The first word decides almost always.
    block[..16].iter().all(|byte| *byte == 0) && {
        let (words, rest) = block.as_chunks::<16>();
        words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|b| *b == 0)
    }
}

/// Copies a file's contents from a finished file system into one being written.
///
/// # Errors
/// One cannot be read, or the other not written.
pub fn copy_contents(from: &File, data: &FileData, to: &mut DataWriter) -> io::Result<FileData> {
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    for extent in &data.extents {
        let start = u64::from(extent.logical) * BLOCK as u64;
        to.skip(start - at)?;
        at = start;
        let length = (u64::from(extent.count) * BLOCK as u64).min(data.size - start);
        let mut done = 0;
        while done < length {
            let part = (length - done).min(BUFFER as u64) as usize;
            from.read_exact_at(&mut buffer[..part], extent.start * BLOCK as u64 + done)?;
            to.write(&buffer[..part])?;
            done += part as u64;
        }
        at += length;
    }
    to.skip(data.size - at)?;
    to.finish()
}
