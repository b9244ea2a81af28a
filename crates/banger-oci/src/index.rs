//! What an image's layers became, kept beside its root file system for the next image that shares some of them: the
//! entries of each, where their contents are, and which of these are still there.
//!
//! The file: for each layer a zstd frame of entries, each with its length in four bytes (little endian) before it; one
//! more frame with the table of them; then that frame's place in eight bytes, and a mark. Frames carry checksums, and
//! whoever reads an index that is damaged, cut short or of another version has none.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use banger_core::Digest;
use banger_ext4::FileData;
use serde::{Deserialize, Serialize};

use crate::part::Part;
use crate::pull::FORMAT;
use crate::tar::Entry;

/// Another number means another encoding. So does another [`FORMAT`], as what is in here would be made in another way.
const VERSION: u32 = 1;
const MARK: [u8; 8] = *b"bnglyrs1";
const TRAILER: u64 = 16;
/// Fast: this is written on the way of a pull.
const LEVEL: i32 = 1;
/// No entry is nearly that long.
const RECORD_MAX: u32 = 256 << 20;
/// Nor is a table: a bit per entry, and some for each layer.
const TABLE_MAX: u64 = 16 << 20;
/// With more entries an image has no index: it is made to fill memory.
const ENTRIES_MAX: usize = 4_000_000;

#[derive(Debug, Serialize, Deserialize)]
struct Table {
    version: u32,
    format: u32,
    layers: Vec<Row>,
}

/// A layer in the table.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    diff_id: Digest,
    /// Where its frame is.
    offset: u64,
    length: u64,
    entries: u32,
    /// A bit for each entry: its content is in the finished file system.
    kept: Vec<u8>,
}

impl Row {
    fn keeps(&self, entry: u32) -> bool {
        let byte = self.kept.get(entry as usize / 8);
        byte.is_some_and(|byte| byte & 1 << (entry % 8) != 0)
    }
}

/// Writes one, as the layers are applied.
pub(crate) struct IndexWriter {
    frame: Option<zstd::stream::write::Encoder<'static, File>>,
    file: File,
    layers: Vec<Row>,
    /// For each layer, the first blocks of its entries' contents; 0 for an entry without.
    first_blocks: Vec<Vec<u64>>,
    entries: usize,
}

impl IndexWriter {
    /// Into an empty file.
    pub(crate) fn new(file: File) -> Self {
        Self {
            frame: None,
            file,
            layers: vec![],
            first_blocks: vec![],
            entries: 0,
        }
    }

    fn is_given_up(&self) -> bool {
        self.entries > ENTRIES_MAX
    }

    /// What comes now belongs to that layer.
    pub(crate) fn begin_layer(&mut self, diff_id: &Digest) -> io::Result<()> {
        self.end_layer()?;
        if self.is_given_up() {
            return Ok(());
        }
        self.layers.push(Row {
            diff_id: diff_id.clone(),
            offset: self.file.stream_position()?,
            length: 0,
            entries: 0,
            kept: vec![],
        });
        self.first_blocks.push(vec![]);
        self.frame = Some(self.new_frame()?);
        Ok(())
    }

    /// An entry, and what became of its content. Of more than anybody has, no index is kept.
    pub(crate) fn entry(&mut self, entry: &Entry, data: &FileData) -> io::Result<()> {
        self.entries += 1;
        if self.is_given_up() {
            self.frame = None;
            self.first_blocks.clear();
            return Ok(());
        }
        let (Some(frame), Some(blocks)) = (&mut self.frame, self.first_blocks.last_mut()) else {
            return Err(io::Error::other("an entry before its layer"));
        };
        let record = postcard::to_stdvec(&(entry, data)).map_err(io::Error::other)?;
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        frame.write_all(&length.to_le_bytes())?;
        frame.write_all(&record)?;
        blocks.push(data.first_block().unwrap_or_default());
        Ok(())
    }

    /// Ends it, which makes it one: the file system must be whole by then. `is_kept` says whether the content that
    /// begins in a block is in it.
    pub(crate) fn finish(mut self, is_kept: impl Fn(u64) -> bool) -> io::Result<()> {
        self.end_layer()?;
        if self.is_given_up() {
            return self.file.set_len(0);
        }
        for (row, blocks) in self.layers.iter_mut().zip(&self.first_blocks) {
            row.entries = u32::try_from(blocks.len()).map_err(io::Error::other)?;
            let bits = blocks.chunks(8).map(|part| {
                let bits = part.iter().enumerate();
                bits.fold(0, |byte, (bit, first)| {
                    byte | u8::from(*first != 0 && is_kept(*first)) << bit
                })
            });
            row.kept = bits.collect();
        }
        let table = Table {
            version: VERSION,
            format: FORMAT,
            layers: std::mem::take(&mut self.layers),
        };
        let table = postcard::to_stdvec(&table).map_err(io::Error::other)?;
        let offset = self.file.stream_position()?;
        let mut packed = self.new_frame()?;
        packed.write_all(&table)?;
        packed.finish()?;
        self.file.write_all(&offset.to_le_bytes())?;
        self.file.write_all(&MARK)
    }

    fn new_frame(&self) -> io::Result<zstd::stream::write::Encoder<'static, File>> {
        let mut frame = zstd::stream::write::Encoder::new(self.file.try_clone()?, LEVEL)?;
        frame.include_checksum(true)?;
        Ok(frame)
    }

    fn end_layer(&mut self) -> io::Result<()> {
        if let (Some(frame), Some(row)) = (self.frame.take(), self.layers.last_mut()) {
            frame.finish()?;
            row.length = self.file.stream_position()? - row.offset;
        }
        Ok(())
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the index of layers is damaged")
}

/// A finished one.
#[derive(Debug)]
pub(crate) struct LayerIndex {
    file: File,
    layers: Vec<Row>,
}

impl LayerIndex {
    /// Opens one and reads its table.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or is of another version.
    pub(crate) fn open(mut file: File) -> io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        let end = size.checked_sub(TRAILER).ok_or_else(damaged)?;
        let mut trailer = [0; TRAILER as usize];
        file.read_exact_at(&mut trailer, end)?;
        let (offset, mark) = trailer.split_at(8);
        let at = u64::from_le_bytes(offset.try_into().unwrap_or_default());
        if mark != MARK || at > end {
            return Err(damaged());
        }
        let mut bytes = Vec::new();
        let table = zstd::stream::read::Decoder::new(Part::new(&file, at, end - at))?;
        table.take(TABLE_MAX).read_to_end(&mut bytes)?;
        let table: Table = postcard::from_bytes(&bytes).map_err(|_| damaged())?;
        let fits = |row: &Row| {
            row.offset
                .checked_add(row.length)
                .is_some_and(|end| end <= at)
        };
        let is_ours = (table.version, table.format) == (VERSION, FORMAT);
        if !is_ours || !table.layers.iter().all(fits) {
            return Err(damaged());
        }
        let layers = table.layers;
        Ok(Self { file, layers })
    }

    /// The layers with that content, by their places among the others: one may be there twice.
    pub(crate) fn find(&self, diff_id: &Digest) -> impl Iterator<Item = usize> {
        let layers = self.layers.iter().enumerate();
        layers
            .filter(|(_, row)| row.diff_id == *diff_id)
            .map(|(at, _)| at)
    }

    /// How many contents of a layer are still there.
    pub(crate) fn kept(&self, layer: usize) -> u32 {
        let kept = &self.layers[layer].kept;
        kept.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Whether the content of an entry of a layer is still there.
    pub(crate) fn keeps(&self, layer: usize, entry: u32) -> bool {
        self.layers[layer].keeps(entry)
    }

    /// Whether the frame of a layer is as it was written: [`LayerIndex::entries`] will tell of all.
    pub(crate) fn is_whole(&self, layer: usize) -> bool {
        let read = self.frame(layer);
        read.and_then(|mut frame| io::copy(&mut frame, &mut io::sink()))
            .is_ok()
    }

    fn frame(&self, layer: usize) -> io::Result<impl BufRead> {
        let row = &self.layers[layer];
        let part = Part::new(&self.file, row.offset, row.length);
        Ok(BufReader::new(zstd::stream::read::Decoder::new(part)?))
    }

    /// Tells of all entries of a layer, in order, with their contents' places.
    ///
    /// # Errors
    /// The index cannot be read or is damaged; what `each` fails with.
    pub(crate) fn entries<E: From<io::Error>>(
        &self,
        layer: usize,
        mut each: impl FnMut(u32, Entry, FileData) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut input = self.frame(layer)?;
        let mut record = Vec::new();
        for number in 0..self.layers[layer].entries {
            let mut length = [0; 4];
            input.read_exact(&mut length)?;
            let length = u32::from_le_bytes(length);
            if length > RECORD_MAX {
                return Err(damaged().into());
            }
            record.clear();
            let mut one = (&mut input).take(length.into());
            if one.read_to_end(&mut record)? != length as usize {
                return Err(damaged().into());
            }
            let (entry, data) = postcard::from_bytes(&record).map_err(|_| damaged())?;
            each(number, entry, data)?;
        }
        // The end of the frame is where its checksum is compared.
        if !input.fill_buf()?.is_empty() {
            return Err(damaged().into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::EntryKind;
    use banger_ext4::{Attributes, DataWriter};
    use proptest::prelude::*;

    fn digest(byte: u8) -> Digest {
        format!("{byte:02x}").repeat(32).parse().unwrap()
    }

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.as_bytes().to_vec(),
            kind: EntryKind::File,
            attributes: Attributes {
                mode: 0o640,
                xattrs: vec![(b"user.name".to_vec(), b"\xff\0".to_vec())],
                ..Attributes::default()
            },
        }
    }

    fn contents(writer: &mut DataWriter, name: &str) -> FileData {
        writer.write(name.as_bytes()).unwrap();
        writer.finish().unwrap()
    }

    /// Two layers with two entries each; the first of each was kept.
    fn index() -> (File, Vec<(Entry, FileData)>) {
        let file = tempfile::tempfile().unwrap();
        let mut writer = DataWriter::new(tempfile::tempfile().unwrap());
        let mut index = IndexWriter::new(file.try_clone().unwrap());
        let (mut all, mut kept) = (Vec::new(), Vec::new());
        for layer in 1..3 {
            index.begin_layer(&digest(layer)).unwrap();
            for name in ["kept", "hidden"] {
                let (entry, data) = (
                    entry(&format!("{name}-{layer}")),
                    contents(&mut writer, name),
                );
                index.entry(&entry, &data).unwrap();
                if name == "kept" {
                    kept.extend(data.first_block());
                }
                all.push((entry, data));
            }
        }
        index.finish(|block| kept.contains(&block)).unwrap();
        (file, all)
    }

    fn read(index: &LayerIndex, layer: usize) -> io::Result<Vec<(Entry, FileData)>> {
        let mut read = Vec::new();
        index.entries(layer, |_, entry, data| {
            read.push((entry, data));
            io::Result::Ok(())
        })?;
        Ok(read)
    }

    #[test]
    fn what_was_written_is_read() {
        let (file, all) = index();
        let index = LayerIndex::open(file).unwrap();
        assert_eq!(index.find(&digest(2)).collect::<Vec<_>>(), [1]);
        assert_eq!(index.find(&digest(3)).count(), 0);
        assert_eq!(read(&index, 0).unwrap(), all[..2]);
        assert_eq!(read(&index, 1).unwrap(), all[2..]);
        assert_eq!(index.kept(1), 1);
        let keeps: Vec<bool> = (0..9).map(|entry| index.keeps(1, entry)).collect();
        assert_eq!(keeps[..2], [true, false]);
        assert!(!keeps[2..].contains(&true));
    }

    #[test]
    fn an_empty_one_and_one_of_nothing() {
        let file = tempfile::tempfile().unwrap();
        IndexWriter::new(file.try_clone().unwrap())
            .finish(|_| true)
            .unwrap();
        let index = LayerIndex::open(file).unwrap();
        assert_eq!(index.find(&digest(1)).count(), 0);
        assert!(LayerIndex::open(tempfile::tempfile().unwrap()).is_err());
    }

    #[test]
    fn of_more_entries_than_anybody_has_no_index_is_kept() {
        let file = tempfile::tempfile().unwrap();
        let mut index = IndexWriter::new(file.try_clone().unwrap());
        index.begin_layer(&digest(1)).unwrap();
        index.entry(&entry("first"), &FileData::default()).unwrap();
        index.entries = ENTRIES_MAX;
        index.entry(&entry("many"), &FileData::default()).unwrap();
        index.begin_layer(&digest(2)).unwrap();
        index.entry(&entry("more"), &FileData::default()).unwrap();
        index.finish(|_| true).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    /// What is written is read by the next version: `VERSION` is another one when this changes.
    #[test]
    fn the_encoding_is_the_one_of_this_version() {
        let mut writer = DataWriter::new(tempfile::tempfile().unwrap());
        let record = (entry("name"), contents(&mut writer, "content"));
        let bytes = postcard::to_stdvec(&record).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "046e616d6500a0030000000000000109757365722e6e616d6502ff00070100810101";
        assert_eq!((VERSION, hex.as_str()), (1, expected));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Whatever is read of one that was damaged is what had been written.
        #[test]
        fn damage_is_noticed(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let (file, all) = index();
            let size = file.metadata().unwrap().len();
            let at = at.index(size as usize) as u64;
            if cut {
                file.set_len(at).unwrap();
            } else {
                file.write_all_at(&[byte], at).unwrap();
            }
            if let Ok(index) = LayerIndex::open(file) {
                for layer in 0..index.layers.len() {
                    if let Ok(read) = read(&index, layer) {
                        prop_assert_eq!(read, &all[layer * 2..layer * 2 + 2]);
                    }
                }
            }
        }
    }
}
