//! Layers into a root file system and a work seed.

use std::fs::File;
use std::io;

use banger_core::Digest;
use banger_ext4::{DataWriter, FormatError, FsOptions, Tree, format};

use crate::index::IndexWriter;
use crate::layer::{LayerBlob, LayerError, Target};
use crate::merge::Merger;
use crate::reuse::{self, Donor, Kept, refill};
use crate::seed;
use crate::watch::Watch;

/// Free bytes of `/`, before it is sparse on the host.
const FREE: u64 = 8 << 30;
const ROOT_ROUND: u64 = 1 << 30;
const ROOT_JOURNAL: u32 = 16 << 10;
/// More files than any image has; each takes some 300 bytes of memory here.
const FILES_MAX: usize = 4_000_000;
/// On the host's file system so much stays free.
const RESERVE: u64 = 256 << 20;

/// What makes a file system the same each time.
#[derive(Debug, Clone)]
pub struct FlattenOptions {
    /// Gives the file systems their UUIDs, and the seed of their names' hashes.
    pub identity: Digest,
    /// When the image was made, in seconds since 1970.
    pub time: u32,
}

/// Why layers did not become file systems.
#[derive(Debug, thiserror::Error)]
pub enum FlattenError {
    /// A layer is unusable.
    #[error("layer {number} of the image cannot be used")]
    Layer {
        /// From 1, the lowest.
        number: usize,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// The tree does not fit into ext4.
    #[error("the image's files do not fit into ext4")]
    Format(#[source] FormatError),
    /// A file of ours could not be used.
    #[error("the file system could not be written")]
    Io(#[source] io::Error),
}

impl FlattenError {
    /// Whether the host's file system was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        match self {
            Self::Layer { source, .. } => match source {
                LayerError::Write(error) => is_full(error),
                LayerError::Room { .. } => true,
                _ => false,
            },
            Self::Format(FormatError::Io(error)) | Self::Io(error) => is_full(error),
            Self::Format(_) => false,
        }
    }

    /// Whether it ended because nobody wants it any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Layer {
                source: LayerError::Cancelled,
                ..
            }
        )
    }
}

/// What became of them.
#[derive(Debug)]
pub struct Flattened {
    /// All files.
    pub tree: Tree,
}

/// What is written. The files are empty, and can be read as well.
#[derive(Debug)]
pub struct Outputs {
    /// The root file system.
    pub rootfs: File,
    /// The work seed.
    pub work_seed: File,
    /// What the next image with one of these layers can reuse.
    pub index: Option<File>,
}

/// Applies layers, the lowest first, and writes both file systems. Those that a donor has are reused; of the others,
/// and of those that no donor has whole, `blob` is asked for their bytes, by number from 0, at most once for each.
///
/// # Errors
/// See [`FlattenError`], or what a layer's coming failed with. Nothing in the files is of any use then.
pub fn flatten<E: From<FlattenError>>(
    layers: &[Digest],
    mut blob: impl FnMut(usize) -> Result<LayerBlob, E>,
    donors: &[Donor],
    outputs: Outputs,
    options: &FlattenOptions,
    watch: &dyn Watch,
) -> Result<Flattened, E> {
    let room = rustix::fs::fstatvfs(&outputs.rootfs);
    let room = room.map_err(|error| FlattenError::Io(error.into()))?;
    let room = (room.f_bavail * room.f_frsize).saturating_sub(RESERVE);
    let mut target = Target {
        merger: Merger::new(FILES_MAX),
        writer: DataWriter::new(outputs.rootfs),
        index: outputs.index.map(IndexWriter::new),
        room,
        watch,
    };
    let failed = |number: usize| {
        move |source| FlattenError::Layer {
            number: number + 1,
            source,
        }
    };
    let mut promises = Vec::new();
    for (number, diff_id) in layers.iter().enumerate() {
        if let Some(index) = &mut target.index {
            index.begin_layer(diff_id).map_err(FlattenError::Io)?;
        }
        if let Some(found) = reuse::find(donors, diff_id) {
            watch.line(&format!("layer {}, out of `{}`", number + 1, found.name()));
            promises.push(target.reuse(number, &found).map_err(failed(number))?);
        } else {
            let blob = blob(number)?;
            watch.line(&format!("layer {}", number + 1));
            target.apply(&blob).map_err(failed(number))?;
        }
    }
    let Target {
        merger,
        writer,
        index,
        ..
    } = target;
    let tree = merger.finish();
    let kept = Kept::of(&tree);
    for promise in promises {
        let number = promise.layer;
        let missing = promise.copy(&kept, writer.file(), watch);
        let missing = missing.map_err(failed(number))?;
        if !missing.is_empty() {
            watch.line(&format!("layer {}, the rest of it", number + 1));
            let refilled = refill(&blob(number)?, &missing, writer.file(), watch);
            refilled.map_err(failed(number))?;
        }
    }
    let root_options = FsOptions {
        free: FREE,
        round: ROOT_ROUND,
        journal_blocks: ROOT_JOURNAL,
        ..fs_options(&options.identity, options.time, "root")
    };
    let rootfs = format(writer, &tree, &root_options).map_err(FlattenError::Format)?;
    let seed_options = seed_options(&options.identity, options.time);
    let made = seed::make(&tree, &rootfs.file, outputs.work_seed, &seed_options);
    made.map_err(FlattenError::Format)?;
    rootfs.file.sync_data().map_err(FlattenError::Io)?;
    if let Some(index) = index {
        let written = index.finish(|first| kept.contains(first));
        written.map_err(FlattenError::Io)?;
    }
    Ok(Flattened { tree })
}

/// The file system of a work seed: small, as it is copied for each VM, and grown then. Of one identity and time
/// (seconds since 1970) it is the same each time.
#[must_use]
pub fn seed_options(identity: &Digest, time: u32) -> FsOptions {
    let FsOptions {
        uuid, hash_seed, ..
    } = fs_options(identity, time, "work");
    FsOptions::of_work_seed(uuid, hash_seed, time)
}

fn fs_options(identity: &Digest, time: u32, label: &str) -> FsOptions {
    let identity = crate::hash::bytes_of(&format!("{identity} {label}"));
    let (uuid, hash_seed) = identity.split_at(16);
    let mut uuid: [u8; 16] = uuid.try_into().unwrap_or_default();
    // A UUID of version 8: of one's own making.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    FsOptions {
        label: label.to_owned(),
        uuid,
        hash_seed: hash_seed.try_into().unwrap_or_default(),
        time,
        free: 0,
        round: 0,
        journal_blocks: 0,
    }
}
