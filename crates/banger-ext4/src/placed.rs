//! Contents whose places are known before their bytes: taken over from another file system of ours, or written later.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::copy_file_range;
use rustix::io::Errno;

use crate::data::DataWriter;
use crate::{BLOCK, FileData};

/// So much is copied at once where the kernel does not do it.
const BUFFER: usize = 1 << 20;

/// Blocks in a row, in one file system and in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First block there.
    pub from: u64,
    /// First block here.
    pub to: u64,
    /// How many.
    pub count: u64,
}

impl Run {
    /// Makes the next run part of this one, when it goes on where this ends in both. False when it does not.
    pub fn join(&mut self, next: &Self) -> bool {
        let goes_on = self.from + self.count == next.from && self.to + self.count == next.to;
        if goes_on {
            self.count += next.count;
        }
        goes_on
    }

    /// Copies the blocks; where the host's file system can, they are shared.
    ///
    /// # Errors
    /// One cannot be read or written, or the other file ends before them.
    pub fn copy(&self, from: &File, to: &File) -> io::Result<()> {
        let (mut from_at, mut to_at) = (self.from * BLOCK as u64, self.to * BLOCK as u64);
        let end = from_at + self.count * BLOCK as u64;
        while from_at < end {
            let want = usize::try_from(end - from_at).unwrap_or(usize::MAX);
            match copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), want) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    return copy_by_hand(from, to, from_at..end, to_at);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn copy_by_hand(
    from: &File,
    to: &File,
    range: std::ops::Range<u64>,
    mut to_at: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut at = range.start;
    while at < range.end {
        let part = (range.end - at).min(BUFFER as u64) as usize;
        from.read_exact_at(&mut buffer[..part], at)?;
        to.write_all_at(&buffer[..part], to_at)?;
        at += part as u64;
        to_at += part as u64;
    }
    Ok(())
}

impl FileData {
    /// The first block that its bytes are in; `None` when it is empty or nothing but a hole. No two contents of one
    /// file system share it.
    #[must_use]
    pub fn first_block(&self) -> Option<u64> {
        self.extents.first().map(|extent| extent.start)
    }

    fn blocks(&self) -> impl Iterator<Item = u64> {
        let extents = self.extents.iter();
        extents.flat_map(|extent| extent.start..extent.start + u64::from(extent.count))
    }

    /// How its blocks get to those of a content of the same shape.
    pub fn runs_to(&self, to: &Self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (from, to) in self.blocks().zip(to.blocks()) {
            let run = Run { from, to, count: 1 };
            if !runs.last_mut().is_some_and(|last| last.join(&run)) {
                runs.push(run);
            }
        }
        runs
    }

    /// Where a block of the file is in the file system; `None` in a hole.
    fn place_of(&self, logical: u64) -> Option<u64> {
        let after = self
            .extents
            .partition_point(|extent| u64::from(extent.logical) <= logical);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        let within = logical - u64::from(extent.logical);
        (within < u64::from(extent.count)).then_some(extent.start + within)
    }
}

impl DataWriter {
    /// Takes the blocks that a content of the shape of `like` would have been written to, and leaves its bytes for
    /// later: [`Run::copy`] or [`Refill`].
    pub fn place(&mut self, like: &FileData) -> FileData {
        let mut data = FileData {
            size: like.size,
            extents: Vec::with_capacity(like.extents.len()),
        };
        for extent in &like.extents {
            for logical in extent.logical..extent.logical.saturating_add(extent.count) {
                data.push(logical, self.cursor.take());
            }
        }
        data
    }

    /// The file that is written to.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Writes the bytes of a content whose place was taken before.
#[derive(Debug)]
pub struct Refill<'a> {
    file: &'a File,
    data: &'a FileData,
    position: u64,
}

impl<'a> Refill<'a> {
    /// Begins with the content's first byte; `file` is the file system.
    #[must_use]
    pub fn new(file: &'a File, data: &'a FileData) -> Self {
        let position = 0;
        Self {
            file,
            data,
            position,
        }
    }

    /// The next bytes. Those in holes are zeros already.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let within = self.position % BLOCK as u64;
            let part = bytes.len().min(BLOCK - within as usize);
            if let Some(block) = self.data.place_of(self.position / BLOCK as u64) {
                let at = block * BLOCK as u64 + within;
                self.file.write_all_at(&bytes[..part], at)?;
            }
            self.position += part as u64;
            bytes = &bytes[part..];
        }
        Ok(())
    }

    /// So many zeros, which nothing was written over yet.
    pub fn skip(&mut self, count: u64) {
        self.position += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(file: &File, data: &FileData) -> Vec<u8> {
        let mut bytes = vec![0; data.size as usize];
        for (logical, part) in bytes.chunks_mut(BLOCK).enumerate() {
            if let Some(block) = data.place_of(logical as u64) {
                file.read_exact_at(part, block * BLOCK as u64).unwrap();
            }
        }
        bytes
    }

    /// Blocks of one byte each; many zeros become holes.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = (0_u8..3, 1_usize..24, 0_usize..BLOCK);
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| {
            let parts = pieces.into_iter();
            parts
                .flat_map(|(byte, blocks, more)| vec![byte; (blocks - 1) * BLOCK + more])
                .collect()
        })
    }

    fn written(writer: &mut DataWriter, bytes: &[u8]) -> FileData {
        writer.write(bytes).unwrap();
        writer.finish().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Others before it there, others here: it gets where it would have been written.
        #[test]
        fn what_is_placed_and_copied_or_refilled_is_as_if_it_were_written(
            there in bytes(), here in bytes(), files in proptest::collection::vec(bytes(), 1..4)
        ) {
            let new = || {
                let file = tempfile::tempfile().unwrap();
                file.set_len(16 << 20).unwrap();
                DataWriter::new(file)
            };
            let (mut donor, mut plain, mut copied, mut filled) = (new(), new(), new(), new());
            written(&mut donor, &there);
            for writer in [&mut plain, &mut copied, &mut filled] {
                written(writer, &here);
            }
            for bytes in &files {
                let from = written(&mut donor, bytes);
                donor.flush().unwrap();
                let expected = written(&mut plain, bytes);
                let to = copied.place(&from);
                prop_assert_eq!(&to, &expected);
                for run in from.runs_to(&to) {
                    run.copy(donor.file(), copied.file()).unwrap();
                }
                prop_assert_eq!(&content(copied.file(), &to), bytes);
                let to = filled.place(&from);
                let mut refill = Refill::new(filled.file(), &to);
                for part in bytes.chunks(1000) {
                    if part.iter().all(|byte| *byte == 0) {
                        refill.skip(part.len() as u64);
                    } else {
                        refill.write(part).unwrap();
                    }
                }
                prop_assert_eq!(&content(filled.file(), &to), bytes);
            }
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let run = Run {
            from: 0,
            to: 7,
            count: 2,
        };
        from.set_len(5000).unwrap();
        assert!(run.copy(&from, &to).is_err());
    }
}
