//! A session's output on disk: bounded, in order, each byte with a position.
//!
//! The log is a folder of segments, each named after the position of its first byte. A segment is
//! records, one after the other: `[u8 stream][u32 length, little endian][bytes]`. When the log is
//! full its oldest segment goes. What cannot be written is skipped: its positions are then missing,
//! which every reader is told.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use banger_guest_proto::{LogExtent, LogStart, MAX_DATA, Stream};

/// No log comes so far: what has a name from beyond is none of its segments, and positions never overflow.
const LAST: u64 = u64::MAX >> 1;

/// A record's stream and length.
const HEAD: usize = 5;

/// The log is cut into so many segments: one of them is what it loses at a time.
const SEGMENTS: u64 = 16;

/// How much a reader reads at a time.
const CHUNK: usize = HEAD + MAX_DATA;

/// The writer's side of a log.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    capacity: u64,
    /// Oldest first, never empty.
    segments: VecDeque<Segment>,
    end: u64,
    /// The newest segment's file; `None` when the next append shall begin another.
    writer: Option<File>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    first: u64,
    /// Its size on disk.
    size: u64,
}

const fn code(stream: Stream) -> u8 {
    match stream {
        Stream::Stderr => 2,
        Stream::Stdin | Stream::Stdout => 1,
    }
}

const fn of_code(code: u8) -> Option<Stream> {
    match code {
        1 => Some(Stream::Stdout),
        2 => Some(Stream::Stderr),
        _ => None,
    }
}

fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:016x}.log"))
}

fn first_of(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".log").filter(|hex| hex.len() == 16)?;
    let first = u64::from_str_radix(hex, 16).ok()?;
    (first <= LAST).then_some(first)
}

/// A record's stream and length, when its head is one.
fn parse_head(head: [u8; HEAD]) -> Option<(Stream, usize)> {
    let [stream, length @ ..] = head;
    let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
    let fits = (1..=MAX_DATA).contains(&length);
    of_code(stream)
        .filter(|_| fits)
        .map(|stream| (stream, length))
}

/// How many bytes of output a segment's whole records hold, and how long they are on disk.
fn measure(file: &File) -> io::Result<(u64, u64)> {
    let size = file.metadata()?.len();
    let (mut output, mut at) = (0, 0);
    let mut buffer = io::BufReader::with_capacity(1 << 16, file);
    loop {
        let mut head = [0; HEAD];
        match io::Read::read_exact(&mut buffer, &mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
        let Some((_, length)) = parse_head(head) else {
            break;
        };
        let next = at + (HEAD + length) as u64;
        if next > size {
            break;
        }
        buffer.seek_relative(i64::try_from(length).unwrap_or_default())?;
        (output, at) = (output + length as u64, next);
    }
    Ok((output, at))
}

impl Log {
    /// The log in that folder: what is there already is kept, a record that was cut off is not.
    pub(super) fn open(folder: &Path, capacity: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut segments = vec![];
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if let Some(first) = entry.file_name().to_str().and_then(first_of) {
                let size = entry.metadata()?.len();
                segments.push(Segment { first, size });
            }
        }
        segments.sort_unstable_by_key(|segment| segment.first);
        let mut log = Self {
            folder: folder.to_owned(),
            capacity,
            segments: segments.into(),
            end: 0,
            writer: None,
        };
        match log.segments.back_mut() {
            None => log.begin_segment()?,
            Some(last) => {
                let file = File::options()
                    .read(true)
                    .write(true)
                    .open(path(folder, last.first))?;
                let (output, size) = measure(&file)?;
                file.set_len(size)?;
                last.size = size;
                log.end = last.first + output;
            }
        }
        Ok(log)
    }

    pub(super) fn extent(&self, taken: u64) -> LogExtent {
        let first = self.segments.front().map_or(self.end, |s| s.first);
        LogExtent {
            first,
            end: self.end,
            taken,
        }
    }

    /// The position that a client's wish means.
    pub(super) fn resolve(&self, from: LogStart, taken: u64) -> u64 {
        let extent = self.extent(taken);
        match from {
            LogStart::Oldest => extent.first,
            LogStart::Newest => extent.end,
            LogStart::Untaken => taken.min(extent.end),
            LogStart::At(at) => at.min(extent.end),
            LogStart::Last(count) => extent.end.saturating_sub(count).max(extent.first),
        }
    }

    fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    fn segment_size(&self) -> u64 {
        (self.capacity / SEGMENTS).max(1)
    }

    /// Whether there is room for a record without losing a byte from `keep` on.
    pub(super) fn has_room(&self, keep: u64) -> bool {
        let after_first = self.segments.get(1).map_or(self.end, |s| s.first);
        self.size() + CHUNK as u64 <= self.capacity || after_first <= keep
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path(&self.folder, self.end))?;
        // A segment of that name exists only when nothing could be written to it.
        file.set_len(0)?;
        if self.segments.back().is_none_or(|s| s.first != self.end) {
            let (first, size) = (self.end, 0);
            self.segments.push_back(Segment { first, size });
        }
        self.writer = Some(file);
        Ok(())
    }

    /// Removes the oldest segment, unless it is the only one.
    fn drop_oldest(&mut self) -> bool {
        if self.segments.len() < 2 {
            return false;
        }
        let Some(oldest) = self.segments.pop_front() else {
            return false;
        };
        // One that cannot be removed costs room and nothing else.
        let _ = fs::remove_file(path(&self.folder, oldest.first));
        true
    }

    /// Adds bytes of an output, at most [`MAX_DATA`]. Those that cannot be written, also when the
    /// oldest have made room, are skipped: the log's end moves on without them.
    pub(super) fn append(&mut self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.needs_segment() {
            // Tried again below.
            let _ = self.begin_segment();
        }
        let record = (HEAD + bytes.len()) as u64;
        while self.size() + record > self.capacity && self.drop_oldest() {}
        while let Err(error) = self.try_append(stream, bytes) {
            // The file may end within a record now: its readers stop there.
            self.writer = None;
            let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
            if !full.contains(&error.kind()) || !self.drop_oldest() {
                break;
            }
        }
        self.end += bytes.len() as u64;
    }

    fn needs_segment(&self) -> bool {
        let last = self.segments.back();
        self.writer.is_none() || last.is_none_or(|last| last.size >= self.segment_size())
    }

    fn try_append(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if self.needs_segment() {
            self.begin_segment()?;
        }
        let mut record = Vec::with_capacity(HEAD + bytes.len());
        record.push(code(stream));
        record.extend_from_slice(
            &u32::try_from(bytes.len())
                .map_err(|_| io::ErrorKind::InvalidInput)?
                .to_le_bytes(),
        );
        record.extend_from_slice(bytes);
        if let Some(writer) = &mut self.writer {
            writer.write_all(&record)?;
        }
        if let Some(last) = self.segments.back_mut() {
            last.size += record.len() as u64;
        }
        Ok(())
    }

    /// The newest segment that begins at or before a position, and the one after it.
    fn around(&self, position: u64) -> (Option<u64>, Option<u64>) {
        let next = self.segments.partition_point(|s| s.first <= position);
        let at = |index: usize| self.segments.get(index).map(|s| s.first);
        (next.checked_sub(1).and_then(at), at(next))
    }
}

/// What a reader comes upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Bytes of an output, and the position of the first.
    Record(Stream, u64, Vec<u8>),
    /// Bytes that are not in the log (any more).
    Gap { from: u64, to: u64 },
    /// Nothing more for now.
    End,
}

/// A reader's place in a log. It reads on in a segment that is dropped meanwhile.
#[derive(Debug)]
pub(super) struct Cursor {
    position: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    first: u64,
    file: File,
    /// Position and place in the file of the record that comes next.
    position: u64,
    offset: u64,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    buffer_at: u64,
}

impl Open {
    fn new(folder: &Path, first: u64) -> io::Result<Self> {
        Ok(Self {
            first,
            file: File::open(path(folder, first))?,
            position: first,
            offset: 0,
            buffer: vec![],
            buffer_at: 0,
        })
    }

    /// The bytes of the file at the next record: as many as that, when there are so many.
    fn bytes(&mut self, count: usize) -> io::Result<Option<&[u8]>> {
        let start = usize::try_from(self.offset - self.buffer_at).unwrap_or(usize::MAX);
        if start.saturating_add(count) > self.buffer.len() {
            self.buffer.resize(CHUNK, 0);
            let mut have = 0;
            while have < CHUNK {
                let at = self.offset + have as u64;
                match self.file.read_at(&mut self.buffer[have..], at) {
                    Ok(0) => break,
                    Ok(count) => have += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.buffer.truncate(have);
            self.buffer_at = self.offset;
        }
        let start = usize::try_from(self.offset - self.buffer_at).unwrap_or(usize::MAX);
        Ok(self.buffer.get(start..start.saturating_add(count)))
    }

    /// The record that comes next, when there is a whole one.
    fn record(&mut self) -> io::Result<Option<(Stream, usize)>> {
        let head = self
            .bytes(HEAD)?
            .and_then(|b| <[u8; HEAD]>::try_from(b).ok());
        let Some((stream, length)) = head.and_then(parse_head) else {
            return Ok(None);
        };
        Ok(self.bytes(HEAD + length)?.map(|_| (stream, length)))
    }
}

impl Cursor {
    pub(super) const fn new(position: u64) -> Self {
        Self {
            position,
            open: None,
        }
    }

    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// What comes next, at most `most` bytes of it. `log` is only asked where things are.
    pub(super) fn next(&mut self, log: &Log, most: usize) -> io::Result<Found> {
        loop {
            if self.position >= log.end || most == 0 {
                return Ok(Found::End);
            }
            let Some(open) = &mut self.open else {
                match log.around(self.position) {
                    (Some(first), _) => self.open = Some(Open::new(&log.folder, first)?),
                    (None, next) => return Ok(self.skip_to(next.unwrap_or(log.end))),
                }
                continue;
            };
            // Nothing of a segment reaches into the next one: what says so is damaged, and hides none of that.
            let limit = log.around(open.first).1.unwrap_or(log.end);
            let place = open.position;
            let fits = |record: &(Stream, usize)| place.saturating_add(record.1 as u64) <= limit;
            let Some((stream, length)) = open.record()?.filter(fits) else {
                // The segment's end, or what is left of it.
                let next = log.around(open.first).1;
                let to = next.unwrap_or(log.end);
                self.open = match next {
                    Some(first) => Some(Open::new(&log.folder, first)?),
                    None => None,
                };
                if to > self.position {
                    return Ok(self.skip_to(to));
                }
                continue;
            };
            let skip = usize::try_from(self.position - open.position).unwrap_or(usize::MAX);
            let whole = HEAD + length;
            if skip >= length {
                open.offset += whole as u64;
                open.position += length as u64;
                continue;
            }
            let take = most.min(length - skip);
            let from = HEAD + skip;
            let bytes = open
                .bytes(whole)?
                .and_then(|all| all.get(from..from + take));
            let bytes = bytes.unwrap_or_default().to_vec();
            let position = self.position;
            self.position += take as u64;
            return Ok(Found::Record(stream, position, bytes));
        }
    }

    fn skip_to(&mut self, to: u64) -> Found {
        let from = self.position;
        self.position = to;
        Found::Gap { from, to }
    }
}

// The fuzzer has this file, too, from elsewhere.
#[cfg(test)]
#[path = "log/tests.rs"]
mod tests;
