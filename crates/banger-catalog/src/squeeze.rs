//! Files with holes, compressed and back. A compressed file is plain zstd, which any tool reads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use banger_core::Digest;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::error::BlobError;
use crate::index::Packed;

/// A good deal smaller than at the usual level, and still some 100 MB a second.
const LEVEL: i32 = 6;
/// The largest window that is unpacked: as much memory, as a power of two.
const WINDOW_LOG_MAX: u32 = 27;
const BUFFER: usize = 1 << 20;
/// Zeros of this many bytes, aligned, become a hole.
const BLOCK: usize = 4 << 10;
static ZEROS: [u8; BUFFER] = [0; BUFFER];

/// What may end it early.
pub(crate) enum SqueezeError {
    /// Reading or writing what is uncompressed.
    Io(io::Error),
    /// What is compressed.
    Blob(BlobError),
    Cancelled,
}

impl From<io::Error> for SqueezeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Counts and hashes what passes.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
    count: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        let (hash, count) = (Sha256::new(), 0);
        Self { inner, hash, count }
    }

    fn note(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
    }

    fn finish(self) -> (Digest, u64) {
        let digest = Digest::of_sha256(self.hash.finalize().into());
        (digest, self.count)
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(to)?;
        self.note(&to[..count]);
        Ok(count)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.note(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Compresses a file into another one. `tell` hears how many bytes were read, and says whether to go on: `None` when
/// it was told not to.
pub(crate) fn compress(
    from: &File,
    to: &File,
    tell: &dyn Fn(u64) -> bool,
) -> io::Result<Option<Packed>> {
    let size = from.metadata()?.len();
    let mut encoder = zstd::stream::write::Encoder::new(Hashing::new(to), LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(size))?;
    encoder.include_contentsize(true)?;
    let mut buffer = vec![0; BUFFER];
    let (mut at, mut data) = (0, data_from(from, 0)?);
    while at < size {
        if !tell(at) {
            return Ok(None);
        }
        let left = size - at;
        // Holes are not read, as they are many times as large as the rest.
        let count = match data {
            None => left,
            Some((start, _)) if at < start => left.min(start - at),
            Some((_, end)) => left.min(end - at),
        };
        let count = usize::try_from(count).unwrap_or(BUFFER).min(BUFFER);
        if data.is_some_and(|(start, _)| at >= start) {
            from.read_exact_at(&mut buffer[..count], at)?;
            encoder.write_all(&buffer[..count])?;
        } else {
            encoder.write_all(&ZEROS[..count])?;
        }
        at += count as u64;
        if data.is_some_and(|(_, end)| at >= end) {
            data = data_from(from, at)?;
        }
    }
    let (blob, blob_size) = encoder.finish()?.finish();
    Ok(Some(Packed {
        blob,
        blob_size,
        size,
    }))
}

/// The next stretch of data: its beginning and end.
fn data_from(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(start) => Ok(Some((start, seek(file, SeekFrom::Hole(start))?))),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Checks that a compressed file is the one that the index means.
pub(crate) fn check(from: &File, packed: &Packed) -> Result<(), SqueezeError> {
    let actual = from.metadata()?.len();
    if actual != packed.blob_size {
        let expected = packed.blob_size;
        return Err(SqueezeError::Blob(BlobError::Size { expected, actual }));
    }
    let mut reading = Hashing::new(At { file: from, at: 0 });
    io::copy(&mut reading, &mut io::sink())?;
    check_digest(reading, packed)
}

fn check_digest<T>(read: Hashing<T>, packed: &Packed) -> Result<(), SqueezeError> {
    let (digest, actual) = read.finish();
    let expected = packed.blob_size;
    if actual != expected {
        return Err(SqueezeError::Blob(BlobError::Size { expected, actual }));
    }
    if digest != packed.blob {
        return Err(SqueezeError::Blob(BlobError::Digest(digest)));
    }
    Ok(())
}

/// Reads a file without moving its cursor, which others may share.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(to, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Unpacks a compressed file into an empty one, never more than the index says, and checks it once more on the way.
pub(crate) fn unpack(
    from: &File,
    packed: &Packed,
    to: &File,
    tell: &dyn Fn(u64) -> bool,
) -> Result<(), SqueezeError> {
    let bad = |error| SqueezeError::Blob(BlobError::Compression(error));
    to.set_len(packed.size)?;
    let mut reading = Hashing::new(At { file: from, at: 0 });
    let mut decoder = zstd::stream::read::Decoder::new(&mut reading).map_err(bad)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(bad)?;
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    loop {
        if !tell(at) {
            return Err(SqueezeError::Cancelled);
        }
        let count = read_full(&mut decoder, &mut buffer).map_err(bad)?;
        if count == 0 {
            break;
        }
        if count as u64 > packed.size - at {
            return Err(SqueezeError::Blob(BlobError::TooLong(packed.size)));
        }
        write_data(to, &buffer[..count], at)?;
        at += count as u64;
    }
    drop(decoder);
    if at != packed.size {
        let expected = packed.size;
        let source = BlobError::TooShort {
            expected,
            actual: at,
        };
        return Err(SqueezeError::Blob(source));
    }
    io::copy(&mut reading, &mut io::sink())?;
    check_digest(reading, packed)
}

fn read_full(from: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < to.len() {
        match from.read(&mut to[done..])? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// Writes what is not zero.
fn write_data(to: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    if *bytes == ZEROS[..bytes.len()] {
        return Ok(());
    }
    let mut start = None;
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        let offset = number * BLOCK;
        let is_zero = *block == ZEROS[..block.len()];
        match (start, is_zero) {
            (None, false) => start = Some(offset),
            (Some(begun), true) => {
                to.write_all_at(&bytes[begun..offset], at + begun as u64)?;
                start = None;
            }
            _ => {}
        }
    }
    match start {
        Some(begun) => to.write_all_at(&bytes[begun..], at + begun as u64),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn file() -> File {
        tempfile::tempfile().unwrap()
    }

    fn there_and_back(from: &File) -> (Packed, File, File) {
        let (blob, back) = (file(), file());
        let packed = compress(from, &blob, &|_| true).unwrap().unwrap();
        assert!(check(&blob, &packed).is_ok());
        assert!(unpack(&blob, &packed, &back, &|_| true).is_ok());
        (packed, blob, back)
    }

    #[test]
    fn holes_stay_holes_and_bytes_stay_where_they_were() {
        let from = file();
        from.set_len((40 << 20) + 5).unwrap();
        from.write_all_at(b"begin", 0).unwrap();
        from.write_all_at(b"middle", (20 << 20) - 3).unwrap();
        from.write_all_at(b"end", (40 << 20) + 2).unwrap();
        let (packed, _, back) = there_and_back(&from);
        assert!(packed.blob_size < 100_000, "{}", packed.blob_size);
        assert_eq!(packed.size, (40 << 20) + 5);
        assert_eq!(back.metadata().unwrap().len(), packed.size);
        assert!(back.metadata().unwrap().blocks() * 512 < 100_000);
        for (text, at) in [
            ("begin", 0),
            ("middle", (20 << 20) - 3),
            ("end", (40 << 20) + 2),
        ] {
            let mut seen = vec![0; text.len()];
            back.read_exact_at(&mut seen, at).unwrap();
            assert_eq!(seen, text.as_bytes());
        }
    }

    #[test]
    fn any_tool_unpacks_it() {
        let from = file();
        from.write_all_at(&[7; 5000], 100_000).unwrap();
        let (_, blob, _) = there_and_back(&from);
        let plain = zstd::decode_all(At { file: &blob, at: 0 }).unwrap();
        assert_eq!(plain.len(), 105_000);
        assert!(plain[..100_000].iter().all(|byte| *byte == 0));
        assert!(plain[100_000..].iter().all(|byte| *byte == 7));
    }

    fn refused(blob: &File, packed: &Packed) -> BlobError {
        match unpack(blob, packed, &file(), &|_| true) {
            Err(SqueezeError::Blob(error)) => error,
            _ => panic!("not refused"),
        }
    }

    #[test]
    fn cut_and_changed_files_bombs_and_wrong_sizes_are_refused() {
        let from = file();
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"something", 1 << 20).unwrap();
        let (packed, blob, _) = there_and_back(&from);
        let lying = |size| Packed {
            size,
            ..packed.clone()
        };
        let bomb = refused(&blob, &lying(1 << 20));
        assert!(matches!(bomb, BlobError::TooLong(_)));
        let short = refused(&blob, &lying(65 << 20));
        assert!(matches!(short, BlobError::TooShort { .. }));
        let other = Packed {
            blob: Digest::of_sha256([1; 32]),
            ..packed.clone()
        };
        assert!(matches!(refused(&blob, &other), BlobError::Digest(_)));
        // Behind the end of one stream another one may follow, but no rubbish.
        let cut = file();
        io::copy(
            &mut At { file: &blob, at: 0 }.take(packed.blob_size - 9),
            &mut &cut,
        )
        .unwrap();
        assert!(matches!(refused(&cut, &packed), BlobError::Compression(_)));
        blob.write_all_at(b"x", packed.blob_size).unwrap();
        assert!(matches!(refused(&blob, &packed), BlobError::Compression(_)));
        assert!(matches!(
            check(&blob, &packed),
            Err(SqueezeError::Blob(BlobError::Size { .. }))
        ));
    }

    #[test]
    fn it_ends_when_nobody_wants_it() {
        let from = file();
        from.set_len(8 << 20).unwrap();
        let (packed, blob, _) = there_and_back(&from);
        let compressed = compress(&from, &file(), &|at| at < 1 << 20);
        assert!(compressed.unwrap().is_none());
        let unpacked = unpack(&blob, &packed, &file(), &|at| at < 1 << 20);
        assert!(matches!(unpacked, Err(SqueezeError::Cancelled)));
    }
}
