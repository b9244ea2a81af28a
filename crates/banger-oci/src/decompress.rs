//! A layer's bytes, unpacked on a thread of their own: by what they begin with, whatever they were called.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use banger_core::Digest;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::hash::{self, HashingReader};

const CHUNK: usize = 256 << 10;
/// How bytes are packed, by their first ones (RFC 1952 section 2.3.1, RFC 8878 section 3.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Zstd,
    None,
}

impl Packing {
    pub(crate) fn of(start: &[u8]) -> Self {
        if start.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// Chunks on their way; so much is held, whatever the layer's size.
const IN_FLIGHT: usize = 4;
/// Windows up to 2^27 bytes, as the `zstd` program accepts unasked.
pub(crate) const ZSTD_WINDOW_LOG: u32 = 27;

type Chunk = io::Result<Vec<u8>>;

/// The reading end: unpacked bytes, hashed and counted as they are handed out.
pub(crate) struct Unpacked {
    chunks: Receiver<Chunk>,
    used: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    hash: Sha256,
    count: u64,
    limit: u64,
}

/// The writing end, for a thread.
pub(crate) struct Unpacking {
    chunks: SyncSender<Chunk>,
    used: Receiver<Vec<u8>>,
}

/// Both ends. Reading fails with [`io::ErrorKind::FileTooLarge`] behind `limit` bytes.
pub(crate) fn unpacking(limit: u64) -> (Unpacking, Unpacked) {
    let (chunks, chunks_out) = sync_channel(IN_FLIGHT);
    let (used, used_out) = sync_channel(IN_FLIGHT + 2);
    let unpacked = Unpacked {
        chunks: chunks_out,
        used,
        current: vec![],
        at: 0,
        hash: Sha256::new(),
        count: 0,
        limit,
    };
    let unpacking = Unpacking {
        chunks,
        used: used_out,
    };
    (unpacking, unpacked)
}

impl Unpacking {
    /// Unpacks everything; returns digest (when asked for) and length of the packed bytes, or `None` when
    /// nobody wants the rest or it could not be read: the reading end has the error.
    pub(crate) fn run(self, packed: impl Read, hashes: bool) -> Option<(Option<Digest>, u64)> {
        let mut packed = BufReader::with_capacity(CHUNK, HashingReader::new(packed, hashes));
        match self.unpack(&mut packed) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                let _ = self.chunks.send(Err(error));
                return None;
            }
        }
        // Signatures and padding may follow what the decoder needs.
        packed.into_inner().finish().ok()
    }

    fn unpack(&self, packed: &mut impl BufRead) -> io::Result<bool> {
        let start = packed.fill_buf()?;
        match Packing::of(start) {
            Packing::Gzip => self.copy(MultiGzDecoder::new(packed)),
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                self.copy(decoder)
            }
            Packing::None => self.copy(packed),
        }
    }

    /// Passes bytes on; false when nobody wants them.
    fn copy(&self, mut from: impl Read) -> io::Result<bool> {
        loop {
            let mut chunk = self.used.try_recv().unwrap_or_default();
            chunk.resize(CHUNK, 0);
            let mut filled = 0;
            while filled < CHUNK {
                match from.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            chunk.truncate(filled);
            let is_last = filled < CHUNK;
            if filled > 0 && self.chunks.send(Ok(chunk)).is_err() {
                return Ok(false);
            }
            if is_last {
                return Ok(true);
            }
        }
    }
}

impl Unpacked {
    /// The digest of everything that was handed out, and how much it was.
    pub(crate) fn finish(self) -> Digest {
        hash::finish(self.hash)
    }
}

impl Read for Unpacked {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let count = from.len().min(to.len());
        to[..count].copy_from_slice(&from[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Unpacked {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() {
            let next = match self.chunks.recv() {
                Ok(chunk) => chunk?,
                // The thread is done.
                Err(_) => vec![],
            };
            self.hash.update(&next);
            self.count += next.len() as u64;
            if self.count > self.limit {
                let what = "it unpacks to more than it can reasonably hold";
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
            }
            let used = std::mem::replace(&mut self.current, next);
            match self.used.try_send(used) {
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
            self.at = 0;
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}
