//! Reading a layer's tar stream: V7, ustar, star, GNU and PAX, sparse files of every kind, extended
//! attributes. The stream is hostile: nothing is believed that is not checked, and no header makes us hold more
//! than [`SPECIAL_MAX`] bytes.
//!
//! Where implementations differ, what Go's reader does is done, as every image builder's output is tested
//! against that: entries that are not regular files have no content whatever their size field says, and
//! global PAX headers mean nothing.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead};

use banger_ext4::{Attributes, DeviceKind, Time};
use serde::{Deserialize, Serialize};

use header::{BLOCK, Header};
use pax::Records;
use sparse::Segment;

/// Largest long name or PAX header.
pub const SPECIAL_MAX: u64 = 1 << 20;

/// Why a stream is no tar that can be used.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It ended, or could not be read, in the middle.
    #[error("the archive cannot be read to its end")]
    Read(#[source] io::Error),
    /// A header's checksum is wrong, or it holds no number where there must be one.
    #[error("the archive has a malformed header: {0}")]
    Header(&'static str),
    /// A PAX header is malformed.
    #[error("the archive has a malformed PAX header: {0}")]
    Pax(&'static str),
    /// A sparse file's map contradicts itself.
    #[error("the archive has a sparse file whose map is malformed: {0}")]
    Sparse(&'static str),
    /// A long name or PAX header that nobody writes.
    #[error("the archive has a header of {0} bytes, more than is ever needed")]
    SpecialTooLarge(u64),
    /// A kind of entry that no image has.
    #[error("the archive has an entry of the unknown kind {:?}", *.0 as char)]
    Kind(u8),
}

impl From<io::Error> for TarError {
    fn from(source: io::Error) -> Self {
        Self::Read(source)
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file; its content follows.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, and its target.
    Symlink(Vec<u8>),
    /// Another name of the file with this name.
    HardLink(Vec<u8>),
    /// A device node.
    Device {
        /// Of what.
        kind: DeviceKind,
        /// Its driver.
        major: u32,
        /// Which one.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name as it stands there.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Mode, owner, times and extended attributes.
    pub attributes: Attributes,
}

/// A piece of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes.
    Bytes(&'a [u8]),
    /// So many zeros.
    Zeros(u64),
}

/// Reads entry after entry.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Content of the current entry that was not read, and what fills its last block up.
    left: u64,
    padding: u64,
    /// The current file's pieces, when it is sparse; the first is next.
    segments: Option<(Vec<Segment>, u64)>,
    /// Bytes read so far.
    offset: u64,
}

impl<R: BufRead> TarReader<R> {
    /// Reads from the beginning of an archive.
    pub fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
            segments: None,
            offset: 0,
        }
    }

    /// The next entry, or `None` at the end. What was not read of the last one's content is skipped.
    ///
    /// # Errors
    /// See [`TarError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let (mut long_name, mut long_link) = (None, None);
        let mut records = Records::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header.kind() {
                b'x' => records = Records::parse(&self.special(&header)?)?,
                b'g' => drop(self.special(&header)?),
                b'L' => long_name = Some(until_nul(self.special(&header)?)),
                b'K' => long_link = Some(until_nul(self.special(&header)?)),
                _ => return self.entry(&header, records, long_name, long_link).map(Some),
            }
        }
    }

    /// Where the current entry's content begins in the stream, and how long it is there.
    #[must_use]
    pub fn content_place(&self) -> (u64, u64) {
        (self.offset, self.left)
    }

    /// Reads the current entry's content piece by piece.
    ///
    /// # Errors
    /// See [`TarError`]; or whatever `sink` returns.
    pub fn content<E: From<TarError>>(
        &mut self,
        mut sink: impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.segments.take() {
            None => self.bytes(self.left, &mut sink),
            Some((segments, size)) => {
                let mut at = 0;
                for segment in segments {
                    if segment.offset > at {
                        sink(Piece::Zeros(segment.offset - at))?;
                    }
                    self.bytes(segment.length, &mut sink)?;
                    at = segment.offset + segment.length;
                }
                if size > at {
                    sink(Piece::Zeros(size - at))?;
                }
                Ok(())
            }
        }
    }

    /// Reads to the end of the stream, behind the archive's own end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn finish(mut self) -> Result<R, TarError> {
        loop {
            let length = self.input.fill_buf()?.len();
            if length == 0 {
                return Ok(self.input);
            }
            self.input.consume(length);
        }
    }

    fn bytes<E: From<TarError>>(
        &mut self,
        mut count: u64,
        sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while count > 0 {
            let buffer = self.input.fill_buf().map_err(TarError::Read)?;
            if buffer.is_empty() {
                return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into()).into());
            }
            let part = buffer
                .len()
                .min(usize::try_from(count).unwrap_or(usize::MAX));
            sink(Piece::Bytes(&buffer[..part]))?;
            self.input.consume(part);
            self.offset += part as u64;
            self.left -= part as u64;
            count -= part as u64;
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        self.segments = None;
        self.left += std::mem::take(&mut self.padding);
        self.bytes(self.left, &mut |_| Ok::<(), TarError>(()))
    }

    /// Fills a buffer; false when the stream ended before its first byte.
    fn fill(&mut self, to: &mut [u8]) -> Result<bool, TarError> {
        let mut done = 0;
        while done < to.len() {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return if done == 0 {
                    Ok(false)
                } else {
                    Err(TarError::Read(io::ErrorKind::UnexpectedEof.into()))
                };
            }
            let part = buffer.len().min(to.len() - done);
            to[done..done + part].copy_from_slice(&buffer[..part]);
            self.input.consume(part);
            done += part;
        }
        self.offset += done as u64;
        Ok(true)
    }

    /// The next header; `None` at the end: two blocks of zeros, or no more bytes.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0; BLOCK];
        if !self.fill(&mut block)? {
            return Ok(None);
        }
        if block == [0; BLOCK] {
            let ends = !self.fill(&mut block)? || block == [0; BLOCK];
            return if ends {
                Ok(None)
            } else {
                Err(TarError::Header("something follows a block of zeros"))
            };
        }
        Header::new(block).map(Some)
    }

    /// All of a special entry's content.
    fn special(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = header.size()?;
        if size > SPECIAL_MAX {
            return Err(TarError::SpecialTooLarge(size));
        }
        self.begin(size);
        let mut content = Vec::new();
        self.bytes(size, &mut |piece| {
            if let Piece::Bytes(bytes) = piece {
                content.extend_from_slice(bytes);
            }
            Ok::<(), TarError>(())
        })?;
        Ok(content)
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn entry(
        &mut self,
        header: &Header,
        mut records: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let sparse_name = records.sparse_name.take();
        let from_header = || long_name.unwrap_or_else(|| header.name());
        let name = sparse_name
            .or(records.path.take())
            .unwrap_or_else(from_header);
        let link = records
            .link
            .take()
            .or(long_link)
            .unwrap_or_else(|| header.link());
        let is_folder_name = name.last() == Some(&b'/');
        let kind = match header.kind() {
            0 if is_folder_name => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' => header.device(DeviceKind::Character)?,
            b'4' => header.device(DeviceKind::Block)?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(TarError::Kind(other)),
        };
        if name.contains(&0) {
            return Err(TarError::Header("a name has a zero byte"));
        }
        if kind == EntryKind::File {
            let size = match records.size {
                Some(size) => size,
                None => header.size()?,
            };
            self.begin(size);
            self.sparse(header, &mut records)?;
        } else {
            self.begin(0);
        }
        let attributes = attributes(header, records)?;
        Ok(Entry {
            name,
            kind,
            attributes,
        })
    }

    /// Finds out whether the file whose content begins now is sparse.
    fn sparse(&mut self, header: &Header, records: &mut Records) -> Result<(), TarError> {
        let (segments, size) = if header.kind() == b'S' {
            let (mut segments, size, mut goes_on) = header.sparse()?;
            let mut block = [0; BLOCK];
            while goes_on {
                if !self.fill(&mut block)? {
                    return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into()));
                }
                goes_on = sparse::extend(&block, &mut segments)?;
            }
            (segments, size)
        } else {
            let segments = if records.has_sparse_map_in_content() {
                Some(self.sparse_map_in_content()?)
            } else {
                records.sparse_map()?
            };
            let Some(segments) = segments else {
                return Ok(());
            };
            let size = records.sparse_size;
            (segments, size.ok_or(TarError::Sparse("no size"))?)
        };
        sparse::check(&segments, size, self.left)?;
        self.segments = Some((segments, size));
        Ok(())
    }

    /// The map of PAX version 1.0: decimal lines before the content, filled up to a block.
    fn sparse_map_in_content(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut map = sparse::TextMap::default();
        let mut block = [0; BLOCK];
        while !map.is_complete() {
            if self.left < BLOCK as u64 || !self.fill(&mut block)? {
                return Err(TarError::Sparse("it is longer than the content"));
            }
            self.left -= BLOCK as u64;
            map.feed(&block)?;
        }
        map.segments()
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn attributes(header: &Header, records: Records) -> Result<Attributes, TarError> {
    let id = |from_records: Option<u64>, from_header: i64| {
        let wide = match from_records {
            Some(id) => id,
            None => u64::try_from(from_header).map_err(|_| TarError::Header("a negative owner"))?,
        };
        u32::try_from(wide).map_err(|_| TarError::Header("an owner beyond 32 bits"))
    };
    let mtime = match records.mtime {
        Some(time) => time,
        None => Time {
            seconds: header.mtime()?,
            nanoseconds: 0,
        },
    };
    Ok(Attributes {
        mode: (header.mode()? & 0o7777) as u16,
        uid: id(records.uid, header.uid()?)?,
        gid: id(records.gid, header.gid()?)?,
        mtime,
        atime: records.atime.unwrap_or(mtime),
        xattrs: records.xattrs,
    })
}

#[cfg(test)]
mod tests;
