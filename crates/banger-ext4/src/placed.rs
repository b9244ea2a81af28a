//! Contents whose places are known before their bytes: taken over from another file system of ours, or written later.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::copy::copy_range;
use crate::data::DataWriter;
use crate::{BLOCK, FileData};

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
    fn join(&mut self, next: &Self) -> bool {
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
        let at = self.from * BLOCK as u64;
        let range = at..at + self.count * BLOCK as u64;
        copy_range(from, range, to, self.to * BLOCK as u64)
    }
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

    /// Adds how its blocks get to those of a content of the same shape; what goes on where the last run ends becomes
    /// part of it.
    pub fn add_runs(&self, to: &Self, runs: &mut Vec<Run>) {
        for (from, to) in self.blocks().zip(to.blocks()) {
            let run = Run { from, to, count: 1 };
            if !runs.last_mut().is_some_and(|last| last.join(&run)) {
                runs.push(run);
            }
        }
    }

    /// Where a byte of the file is in the file system, and how many follow it there; in a hole, or behind the last
    /// extent, how many have no place.
    fn place_of(&self, position: u64) -> (Option<u64>, u64) {
        let block = BLOCK as u64;
        let after = self
            .extents
            .partition_point(|extent| u64::from(extent.logical) * block <= position);
        if let Some(extent) = after.checked_sub(1).map(|at| &self.extents[at]) {
            let within = position - u64::from(extent.logical) * block;
            let length = u64::from(extent.count) * block;
            if within < length {
                return (Some(extent.start * block + within), length - within);
            }
        }
        let next = self.extents.get(after);
        let end = next.map_or(u64::MAX, |next| u64::from(next.logical) * block);
        (None, end - position)
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
            let (place, length) = self.data.place_of(self.position);
            let part =
                usize::try_from(length).map_or(bytes.len(), |length| length.min(bytes.len()));
            if let Some(at) = place {
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
    use crate::GROUP;
    use proptest::prelude::*;

    fn content(file: &File, data: &FileData) -> Vec<u8> {
        let mut bytes = vec![0; data.size as usize];
        for (logical, part) in bytes.chunks_mut(BLOCK).enumerate() {
            if let (Some(at), _) = data.place_of((logical * BLOCK) as u64) {
                file.read_exact_at(part, at).unwrap();
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
        /// Others before it there, others here, and a group's copy of the super block somewhere: it gets where it
        /// would have been written.
        #[test]
        fn what_is_placed_and_copied_or_refilled_is_as_if_it_were_written(
            there in bytes(), here in bytes(), files in proptest::collection::vec(bytes(), 1..4),
            starts in (0_u64..60, 0_u64..60)
        ) {
            let new = |before: u64| {
                let file = tempfile::tempfile().unwrap();
                file.set_len(200 << 20).unwrap();
                let mut writer = DataWriter::new(file);
                writer.cursor.take_together(GROUP - writer.cursor.position() - before);
                writer
            };
            let (mut donor, mut plain) = (new(starts.0), new(starts.1));
            let (mut copied, mut filled) = (new(starts.1), new(starts.1));
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
                let mut runs = vec![];
                from.add_runs(&to, &mut runs);
                for run in runs {
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
}
