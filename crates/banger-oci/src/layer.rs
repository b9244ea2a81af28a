//! One layer: from its packed bytes into the tree and the file system.

use std::fs::File;
use std::io;

use banger_core::Digest;
use banger_ext4::{Attributes, DataWriter, FileData};

use crate::decompress::{Unpacked, unpacking};
use crate::index::IndexWriter;
use crate::merge::{MergeError, Merger};
use crate::part::Part;
use crate::tar::{Entry, EntryKind, Piece, TarError, TarReader};
use crate::watch::Watch;

/// Attributes that belong to the host on which an image was made.
const HOST_ATTRIBUTES: [&[u8]; 3] = [b"security.selinux", b"system.nfs4_acl", b"trusted.overlay."];
/// A layer may unpack to so many times its size and to so much more: what compresses better than that is made
/// to fill disks.
pub(crate) const RATIO_MAX: u64 = 250;
pub(crate) const RATIO_SLACK: u64 = 1 << 30;

/// A layer's bytes in a file.
#[derive(Debug)]
pub struct LayerBlob {
    /// The file.
    pub file: File,
    /// Where they begin.
    pub offset: u64,
    /// How many they are.
    pub length: u64,
    /// Their digest, when it was not checked yet.
    pub digest: Option<Digest>,
    /// The digest of the tar stream in them.
    pub diff_id: Digest,
}

/// Why a layer is unusable.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It is no archive that can be used; also when its bytes do not decompress.
    #[error("its archive is malformed")]
    Tar(#[source] TarError),
    /// An entry cannot be applied.
    #[error("an entry cannot be applied")]
    Merge(#[source] MergeError),
    /// It has another digest than the manifest says.
    #[error("its digest is sha256:{actual}, not sha256:{expected} as the manifest says")]
    Digest {
        /// By the manifest.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// What is in it has another digest than the configuration says.
    #[error(
        "its content has the digest sha256:{actual}, not sha256:{expected} as the image's configuration says"
    )]
    DiffId {
        /// By the configuration.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// It is shorter or longer than it should be.
    #[error("it has {actual} bytes, not {expected}")]
    Size {
        /// By the manifest.
        expected: u64,
        /// What it has.
        actual: u64,
    },
    /// A decompression bomb.
    #[error("it has {packed} bytes and unpacks to more than {limit}: it is made to fill disks")]
    Bomb {
        /// Its size.
        packed: u64,
        /// More than this is not unpacked.
        limit: u64,
    },
    /// The file system cannot be written.
    #[error("the file system could not be written")]
    Write(#[source] io::Error),
    /// There is not that much room.
    #[error("its content needs more than the {room} bytes that there is room for")]
    Room {
        /// How much there was.
        room: u64,
    },
    /// What another image's index says of it cannot be read, though it could be a moment ago.
    #[error("what is known of it from another image cannot be read")]
    Reuse(#[source] io::Error),
    /// Nobody wants the image any more.
    #[error("cancelled")]
    Cancelled,
}

/// Of another image's index.
impl From<io::Error> for LayerError {
    fn from(error: io::Error) -> Self {
        Self::Reuse(error)
    }
}

impl From<TarError> for LayerError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// What layers are applied to.
pub(crate) struct Target<'a> {
    pub(crate) merger: Merger,
    pub(crate) writer: DataWriter,
    /// What the next image can reuse.
    pub(crate) index: Option<IndexWriter>,
    /// The file system's contents may grow to this many bytes.
    pub(crate) room: u64,
    pub(crate) watch: &'a dyn Watch,
}

/// Unpacks a layer and hands its archive to `read`; then looks whether its bytes were those that they should be.
pub(crate) fn read_layer(
    blob: &LayerBlob,
    read: impl FnOnce(&mut TarReader<Unpacked>) -> Result<(), LayerError>,
) -> Result<(), LayerError> {
    let limit = blob
        .length
        .saturating_mul(RATIO_MAX)
        .saturating_add(RATIO_SLACK);
    let (unpacking, unpacked) = unpacking(limit);
    let (done, packed) = std::thread::scope(|scope| {
        let hashes = blob.digest.is_some();
        let packed = Part::new(&blob.file, blob.offset, blob.length);
        let thread = scope.spawn(move || unpacking.run(packed, hashes));
        let mut tar = TarReader::new(unpacked);
        // Dropping the reading end on an error ends the thread.
        let done = read(&mut tar).and_then(|()| Ok(tar.finish()?));
        (done, thread.join())
    });
    let unpacked = done.map_err(|error| match error {
        LayerError::Tar(TarError::Read(source)) if source.kind() == io::ErrorKind::FileTooLarge => {
            let packed = blob.length;
            LayerError::Bomb { packed, limit }
        }
        other => other,
    })?;
    let packed = packed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let truncated = || TarError::Read(io::ErrorKind::UnexpectedEof.into());
    let (digest, length) = packed.ok_or_else(truncated)?;
    if length != blob.length {
        return Err(LayerError::Size {
            expected: blob.length,
            actual: length,
        });
    }
    if let (Some(expected), Some(actual)) = (&blob.digest, digest)
        && *expected != actual
    {
        let expected = expected.clone();
        return Err(LayerError::Digest { expected, actual });
    }
    let actual = unpacked.finish();
    if actual != blob.diff_id {
        let expected = blob.diff_id.clone();
        return Err(LayerError::DiffId { expected, actual });
    }
    Ok(())
}

impl Target<'_> {
    /// Applies a layer.
    pub(crate) fn apply(&mut self, blob: &LayerBlob) -> Result<(), LayerError> {
        self.merger.next_layer();
        read_layer(blob, |tar| {
            while let Some(mut entry) = tar.next_entry()? {
                if self.watch.cancelled() {
                    return Err(LayerError::Cancelled);
                }
                let mut data = FileData::default();
                if entry.kind == EntryKind::File {
                    tar.content(|piece| self.content(piece))?;
                    data = self.writer.finish().map_err(LayerError::Write)?;
                }
                settle_attributes(&mut entry.attributes);
                self.enter(entry, data)?;
            }
            Ok(())
        })
    }

    /// Takes room for a content of that shape.
    pub(crate) fn place(&mut self, like: &FileData) -> Result<FileData, LayerError> {
        if self.watch.cancelled() {
            return Err(LayerError::Cancelled);
        }
        let data = self.writer.place(like);
        self.check_room()?;
        Ok(data)
    }

    /// Lays an entry over the tree, and keeps it for the next image.
    pub(crate) fn enter(&mut self, entry: Entry, data: FileData) -> Result<(), LayerError> {
        if let Some(index) = &mut self.index {
            index.entry(&entry, &data).map_err(LayerError::Write)?;
        }
        self.merger.apply(entry, data).map_err(LayerError::Merge)
    }

    fn content(&mut self, piece: Piece<'_>) -> Result<(), LayerError> {
        let written = match piece {
            Piece::Bytes(bytes) => self.writer.write(bytes),
            Piece::Zeros(count) => self.writer.skip(count),
        };
        written.map_err(LayerError::Write)?;
        self.check_room()?;
        if self.watch.cancelled() {
            return Err(LayerError::Cancelled);
        }
        Ok(())
    }

    fn check_room(&self) -> Result<(), LayerError> {
        if self.writer.position() > self.room {
            return Err(LayerError::Room { room: self.room });
        }
        Ok(())
    }
}

/// Leaves out what ext4 does not keep and what belonged to the host they were made on, and lets access lists
/// do to the mode what the kernel would.
fn settle_attributes(attributes: &mut Attributes) {
    let mode = &mut attributes.mode;
    attributes.xattrs.retain(|(name, value)| {
        if let Some((permissions, is_all)) = banger_ext4::permissions_of(name, value) {
            *mode = *mode & !0o777 | permissions;
            return !is_all;
        }
        !HOST_ATTRIBUTES.iter().any(|host| name.starts_with(host))
            && banger_ext4::is_storable(name, value)
    });
}
