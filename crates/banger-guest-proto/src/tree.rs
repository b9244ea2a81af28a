//! Trees of files as a stream of records, for copies in both directions.
//!
//! A record is a frame like the others, `[u32 length][u8 type][payload]`, of types that only a
//! transfer has: an entry says what stands at a path, data and holes are the content of the file
//! entry before them, and the end is a record of its own. Control messages stand between them. There
//! are no windows: a transfer has its connection for itself, and who receives always reads.

use std::io::{self, Read, Write};

use crate::frame::{CONTROL, checked_length};
use crate::{FrameError, MAX_FRAME, RelPath, encode_control};
use serde::Serialize;

// Only what is being carried tells an entry from a session's record, which has the same number.
const ENTRY: u8 = 6;
const DATA: u8 = 7;
const HOLE: u8 = 8;
const REMOVE: u8 = 9;
const WANT: u8 = 10;
const END: u8 = 11;

const HEADER: usize = 5;

/// The most content in one record, in bytes.
pub const MAX_CONTENT: usize = 256 << 10;

/// A time as file systems have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanos: u32,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: RelPath,
    /// What.
    pub kind: EntryKind,
    /// Permission bits, with setuid and its like.
    pub mode: u16,
    /// When it was last changed.
    pub mtime: FileTime,
}

/// What kind of thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file; its content follows, in a listing it does not.
    File {
        /// As large as this when it was opened.
        size: u64,
        /// Later entries may be further names of it.
        linked: bool,
    },
    /// A folder.
    Folder,
    /// A symbolic link, and what it says.
    Symlink(Vec<u8>),
    /// A further name of a file that came before.
    HardLink(RelPath),
    /// Something that is not copied: a device, a socket, a pipe.
    Special,
    /// Nothing (in a listing of given paths).
    Missing,
}

impl EntryKind {
    const fn code(&self) -> u8 {
        match self {
            Self::File { linked: false, .. } => 0,
            Self::File { linked: true, .. } => 1,
            Self::Folder => 2,
            Self::Symlink(_) => 3,
            Self::HardLink(_) => 4,
            Self::Special => 5,
            Self::Missing => 6,
        }
    }
}

/// One record, as it lies in the reader's buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A control message's JSON.
    Control(&'a [u8]),
    /// What stands at a path.
    Entry(Entry),
    /// Content of the file before.
    Data(&'a [u8]),
    /// So many bytes of the file before that were never written.
    Hole(u64),
    /// Remove what stands at a path.
    Remove(RelPath),
    /// What stands at this path is asked for.
    Want(RelPath),
    /// No more records.
    End,
}

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub enum ReadRecordError {
    /// The connection ended.
    #[error("the connection ended in the middle of a transfer")]
    Closed,
    /// The connection failed.
    #[error("the connection failed")]
    Read(#[source] io::Error),
    /// What came is not of the protocol.
    #[error("what came is no record of files")]
    Malformed,
    /// A frame is too long or too short.
    #[error("what came is no frame")]
    Frame(#[source] FrameError),
}

/// Takes fixed and counted parts off a payload.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn counted(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
}

fn decode_entry(payload: &[u8]) -> Option<Entry> {
    let mut parts = Parts(payload);
    let [code] = parts.array()?;
    let mode = u16::from_le_bytes(parts.array()?);
    let seconds = i64::from_le_bytes(parts.array()?);
    let nanos = u32::from_le_bytes(parts.array()?);
    let size = u64::from_le_bytes(parts.array()?);
    let path = RelPath::new(parts.counted()?).ok()?;
    let target = parts.counted()?;
    let whole = parts.0.is_empty() && mode & !0o7777 == 0 && nanos < 1_000_000_000;
    let kind = match code {
        0 | 1 => EntryKind::File {
            size,
            linked: code == 1,
        },
        2 => EntryKind::Folder,
        3 if !target.is_empty() && !target.contains(&0) => EntryKind::Symlink(target.to_vec()),
        4 => EntryKind::HardLink(RelPath::new(target).ok()?),
        5 => EntryKind::Special,
        6 => EntryKind::Missing,
        _ => return None,
    };
    whole.then_some(Entry {
        path,
        kind,
        mode,
        mtime: FileTime { seconds, nanos },
    })
}

fn decode(kind: u8, payload: &[u8]) -> Option<Record<'_>> {
    match kind {
        CONTROL => Some(Record::Control(payload)),
        ENTRY => decode_entry(payload).map(Record::Entry),
        DATA => Some(Record::Data(payload)),
        HOLE => Some(Record::Hole(u64::from_le_bytes(payload.try_into().ok()?))),
        REMOVE => Some(Record::Remove(RelPath::new(payload).ok()?)),
        WANT => Some(Record::Want(RelPath::new(payload).ok()?)),
        END => payload.is_empty().then_some(Record::End),
        _ => None,
    }
}

/// Cuts a stream into records. It holds one frame at most, and what was read along with it.
#[derive(Debug)]
pub struct RecordReader<R> {
    from: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: Read> RecordReader<R> {
    /// Over a stream; `before` was read from it already.
    #[must_use]
    pub fn new(from: R, before: &[u8]) -> Self {
        let size = (4 + MAX_FRAME).max(before.len());
        let mut buffer = vec![0; size].into_boxed_slice();
        buffer[..before.len()].copy_from_slice(before);
        Self {
            from,
            buffer,
            start: 0,
            end: before.len(),
        }
    }

    /// The next record.
    ///
    /// # Errors
    /// [`ReadRecordError`] when none comes.
    pub fn next_record(&mut self) -> Result<Record<'_>, ReadRecordError> {
        self.fill(4)?;
        let head = self.buffer[self.start..].first_chunk::<4>();
        let length = u32::from_le_bytes(*head.ok_or(ReadRecordError::Malformed)?);
        let size = checked_length(length).map_err(ReadRecordError::Frame)?;
        self.fill(4 + size)?;
        let (from, to) = (self.start + 4, self.start + 4 + size);
        self.start = to;
        let kind = self.buffer[from];
        decode(kind, &self.buffer[from + 1..to]).ok_or(ReadRecordError::Malformed)
    }

    /// Reads until so many bytes are there.
    fn fill(&mut self, wanted: usize) -> Result<(), ReadRecordError> {
        if self.buffer.len() - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < wanted {
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(ReadRecordError::Closed),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadRecordError::Read(error)),
            }
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(())
    }
}

/// Writes records, many at a time.
#[derive(Debug)]
pub struct RecordWriter<W> {
    to: W,
    buffer: Vec<u8>,
}

/// What is collected before it is written.
const COLLECT: usize = 256 << 10;

impl<W: Write> RecordWriter<W> {
    /// Over a stream.
    #[must_use]
    pub fn new(to: W) -> Self {
        Self {
            to,
            buffer: Vec::with_capacity(COLLECT + MAX_CONTENT + HEADER),
        }
    }

    /// The stream.
    pub fn get_ref(&self) -> &W {
        &self.to
    }

    fn head(&mut self, kind: u8, length: usize) {
        // Payloads are bounded far below 4 GiB by their makers.
        let length = u32::try_from(length + 1).unwrap_or(u32::MAX);
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.push(kind);
    }

    fn push(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.head(kind, payload.len());
        self.buffer.extend_from_slice(payload);
        self.write_when_full()
    }

    fn write_when_full(&mut self) -> io::Result<()> {
        if self.buffer.len() >= COLLECT {
            self.write_out()?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.to.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes all that was collected.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.to.flush()
    }

    /// A control message.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn control<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        encode_control(&mut self.buffer, message);
        self.write_when_full()
    }

    /// What stands at a path.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        let (size, target) = match &entry.kind {
            EntryKind::File { size, .. } => (*size, &[][..]),
            EntryKind::Symlink(target) => (0, target.as_slice()),
            EntryKind::HardLink(target) => (0, target.as_bytes()),
            EntryKind::Folder | EntryKind::Special | EntryKind::Missing => (0, &[][..]),
        };
        let path = entry.path.as_bytes();
        self.head(ENTRY, 27 + path.len() + target.len());
        let out = &mut self.buffer;
        out.push(entry.kind.code());
        out.extend_from_slice(&entry.mode.to_le_bytes());
        out.extend_from_slice(&entry.mtime.seconds.to_le_bytes());
        out.extend_from_slice(&entry.mtime.nanos.to_le_bytes());
        out.extend_from_slice(&size.to_le_bytes());
        for part in [path, target] {
            // Both are bounded by PATH_MAX.
            let length = u16::try_from(part.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(part);
        }
        self.write_when_full()
    }

    /// Content of the file before.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(MAX_CONTENT) {
            self.push(DATA, piece)?;
        }
        Ok(())
    }

    /// Content of the file before, read straight into the buffer. The answer is how much it was.
    ///
    /// # Errors
    /// The inner one is the reading's, the outer one the stream's.
    pub fn data_from(
        &mut self,
        most: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<io::Result<usize>> {
        let most = most.min(MAX_CONTENT);
        let start = self.buffer.len();
        self.buffer.resize(start + HEADER + most, 0);
        let count = match read(&mut self.buffer[start + HEADER..]) {
            Ok(count) if count > 0 => count.min(most),
            other => {
                self.buffer.truncate(start);
                return Ok(other);
            }
        };
        self.buffer.truncate(start + HEADER + count);
        let length = u32::try_from(count + 1).unwrap_or(u32::MAX);
        self.buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.buffer[start + 4] = DATA;
        self.write_when_full()?;
        Ok(Ok(count))
    }

    /// Bytes of the file before that were never written.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn hole(&mut self, bytes: u64) -> io::Result<()> {
        self.push(HOLE, &bytes.to_le_bytes())
    }

    /// To remove what stands at a path.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn remove(&mut self, path: &RelPath) -> io::Result<()> {
        self.push(REMOVE, path.as_bytes())
    }

    /// To ask for what stands at a path.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn want(&mut self, path: &RelPath) -> io::Result<()> {
        self.push(WANT, path.as_bytes())
    }

    /// The last record; all is written out.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn end(&mut self) -> io::Result<()> {
        self.push(END, &[])?;
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paths() -> impl Strategy<Value = RelPath> {
        "[a-z]{1,8}(/[a-z\u{e9}\n]{1,8}){0,3}".prop_map(|text| RelPath::new(text).unwrap())
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let kinds = prop_oneof![
            (any::<u64>(), any::<bool>())
                .prop_map(|(size, linked)| EntryKind::File { size, linked }),
            Just(EntryKind::Folder),
            proptest::collection::vec(1_u8.., 1..40).prop_map(EntryKind::Symlink),
            paths().prop_map(EntryKind::HardLink),
            Just(EntryKind::Special),
            Just(EntryKind::Missing),
        ];
        let time = (any::<i64>(), 0..1_000_000_000_u32);
        (paths(), kinds, 0..0o10000_u16, time).prop_map(|(path, kind, mode, time)| Entry {
            path,
            kind,
            mode,
            mtime: FileTime {
                seconds: time.0,
                nanos: time.1,
            },
        })
    }

    /// Gives as many bytes at a time as it was told.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(to.len()).min(self.0.len());
            to[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in(
            sent in proptest::collection::vec(entries(), 0..20),
            data in proptest::collection::vec(any::<u8>(), 1..5000),
            cut in 1_usize..700,
        ) {
            let mut wire = vec![];
            let mut writer = RecordWriter::new(&mut wire);
            for entry in &sent {
                writer.entry(entry).unwrap();
                writer.data(&data).unwrap();
                let mut from = data.as_slice();
                writer.data_from(1 << 20, |to| from.read(to)).unwrap().unwrap();
                writer.hole(7).unwrap();
                writer.remove(&entry.path).unwrap();
                writer.want(&entry.path).unwrap();
            }
            writer.end().unwrap();
            let mut reader = RecordReader::new(Slow(&wire, cut), &[]);
            for entry in &sent {
                prop_assert_eq!(reader.next_record().unwrap(), Record::Entry(entry.clone()));
                prop_assert_eq!(reader.next_record().unwrap(), Record::Data(&data));
                prop_assert_eq!(reader.next_record().unwrap(), Record::Data(&data));
                prop_assert_eq!(reader.next_record().unwrap(), Record::Hole(7));
                prop_assert_eq!(reader.next_record().unwrap(), Record::Remove(entry.path.clone()));
                prop_assert_eq!(reader.next_record().unwrap(), Record::Want(entry.path.clone()));
            }
            prop_assert_eq!(reader.next_record().unwrap(), Record::End);
            prop_assert!(matches!(reader.next_record(), Err(ReadRecordError::Closed)));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut reader = RecordReader::new(bytes.as_slice(), &[]);
            while reader.next_record().is_ok() {}
        }

        #[test]
        fn a_hostile_entry_never_names_anything_outside(mut payload in proptest::collection::vec(any::<u8>(), 27..60), text in "[./a]{0,9}") {
            let path = text.as_bytes();
            payload.truncate(23);
            payload[0] %= 7;
            payload.extend_from_slice(&u16::try_from(path.len()).unwrap().to_le_bytes());
            payload.extend_from_slice(path);
            payload.extend_from_slice(&[0, 0]);
            if let Some(entry) = decode_entry(&payload) {
                prop_assert!(RelPath::new(entry.path.as_bytes()).is_ok());
            }
        }
    }
}
