//! From a builder's disks to an image: the root disk as one file, the work disk as a seed, both checked, and both the
//! same whenever they are made of the same disks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;

use banger_core::{ByteSize, Digest, ImageName};
use banger_oci::ImageConfig;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::cache::{BuildCache, Cached};
use crate::disk::{DiskError, succeeded};
use crate::file_error::{Context, FileError};
use crate::flatten::flatten;
use crate::store::{Image, ImageRecord, ImageStore, ROOTFS, WORK_SEED, new_file};
use crate::{BuildError, digest, sparse};

/// Free space that every image's `/` has at least.
const FREE: u64 = 8 << 30;
const GIB: u64 = 1 << 30;

/// How an image was built in a builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// The image that it was built on.
    pub base: ImageName,
    /// That one's artefact.
    pub base_digest: Digest,
    /// Names all that led to it.
    pub key: String,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Folders whose content is data.
    #[serde(default)]
    pub volumes: Vec<String>,
}

/// An image to be made of a builder's disks.
#[derive(Debug, Clone)]
pub struct FinishRequest {
    /// Its name.
    pub name: ImageName,
    /// How it was built.
    pub built: Built,
    /// Least size of its root file system.
    pub size: Option<ByteSize>,
}

/// Why it was not made.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// The image that it was built on is gone.
    #[error("the image `{0}` that it was built on is gone")]
    NoBase(ImageName),
    /// Another operation on that name goes on.
    #[error("another operation on the image `{0}` goes on")]
    Busy(ImageName),
    /// A file system could not be checked or resized.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file or folder could not be used.
    #[error(transparent)]
    Io(#[from] FileError),
}

impl FinishError {
    /// Whether the file system was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Disk(error) => error.is_disk_full(),
            Self::Io(error) => error.is_disk_full(),
            _ => false,
        }
    }
}

impl ImageStore {
    /// Makes an image of a builder's disks, which are in the cache, and takes it into the store, in place of an older
    /// one of that name.
    ///
    /// # Errors
    /// See [`FinishError`]. The store is as before.
    pub fn finish(
        &self,
        request: FinishRequest,
        cache: &BuildCache,
        disks: &Cached,
    ) -> Result<Image, FinishError> {
        let name = request.name.clone();
        let alone = self
            .try_alone(&name)
            .context("lock a name in", self.root())?;
        let _alone = alone.ok_or_else(|| FinishError::Busy(name.clone()))?;
        let below = &disks.below;
        let base = self
            .artefact(&below.image, &below.digest)
            .ok_or_else(|| FinishError::NoBase(below.image.clone()))?;
        let folder = cache.coming()?;
        let next = folder.path().join("image");
        fs::create_dir(&next).context("make", &next)?;
        let (rootfs, seed) = (next.join(ROOTFS), next.join(WORK_SEED));
        let open = |path: &Path| File::open(path).context("read", path);
        let to = new_file(&rootfs).context("write", &rootfs)?;
        flatten(
            below.storage,
            &open(&base.rootfs())?,
            &open(&disks.root())?,
            &to,
        )
        .context("read the disk", disks.root())?;
        drop(to);
        let to = new_file(&seed).context("write", &seed)?;
        sparse::copy(&open(&disks.work())?, &to).context("copy to", &seed)?;
        drop(to);
        check(&rootfs)?;
        make_room(&rootfs, request.size)?;
        check(&seed)?;
        // Each VM's work disk begins as a copy of it and grows to its size.
        tool("resize2fs", &["-f", "-M"], &seed, &[0])?;
        let record = ImageRecord {
            name,
            digest: of_both(&rootfs, &seed)?,
            recipe_fingerprint: None,
            kernel: base.record.kernel.clone(),
            ready: base.record.ready.clone(),
            contents: base.record.contents.clone(),
            created_at: jiff::Timestamp::now().to_string(),
            origin: None,
            elsewhere: None,
            catalog: None,
            built: Some(request.built),
            seed: None,
        };
        let adopted = self.adopt(&next, record).map_err(BuildError::into_io);
        Ok(adopted.context("keep the image in", self.root())?)
    }
}

/// Runs a tool of e2fsprogs on a file system. The time that it writes down is always the same.
fn tool(program: &str, options: &[&str], disk: &Path, codes: &[i32]) -> Result<(), DiskError> {
    let mut command = Command::new(program);
    command.args(options).arg(disk);
    command
        .env("E2FSPROGS_FAKE_TIME", "1")
        .env("E2FSCK_TIME", "1");
    succeeded(command.stdin(std::process::Stdio::null()), codes)
}

/// Replays the journal and repairs what can be repaired safely (e2fsck(8): 1 is `errors corrected`).
fn check(disk: &Path) -> Result<(), DiskError> {
    tool("e2fsck", &["-f", "-p"], disk, &[0, 1])
}

/// Grows the root file system so that enough is free on it.
fn make_room(rootfs: &Path, size: Option<ByteSize>) -> Result<(), FinishError> {
    let (total, free) = room(rootfs).context("read", rootfs)?;
    // What the file system needs for itself grows with it.
    let enough = free + GIB / 2 >= FREE;
    let wanted = match enough {
        true => total,
        false => (total - free.min(total) + FREE + GIB / 2).next_multiple_of(GIB),
    };
    let wanted = wanted.max(size.map_or(0, |size| size.0));
    if wanted > total {
        let file = File::options().write(true).open(rootfs);
        let grown = file.and_then(|file| file.set_len(wanted));
        grown.context("grow", rootfs)?;
        tool("resize2fs", &["-f"], rootfs, &[0])?;
    }
    Ok(())
}

/// Size of an ext4 file system and what is free on it, in bytes, as its superblock says.
fn room(disk: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::FileExt;
    let mut block = [0; 1024];
    File::open(disk)?.read_exact_at(&mut block, 1024)?;
    let word = |at: usize| {
        let bytes = [block[at], block[at + 1], block[at + 2], block[at + 3]];
        u64::from(u32::from_le_bytes(bytes))
    };
    let block_size = 1024_u64.checked_shl(u32::try_from(word(0x18)).unwrap_or(u32::MAX));
    let block_size = block_size.filter(|size| (1024..=65536).contains(size));
    let block_size = block_size.ok_or(io::ErrorKind::InvalidData)?;
    let is_large = word(0x60) & 0x80 != 0;
    let both = |low: usize, high: usize| word(low) | if is_large { word(high) << 32 } else { 0 };
    let bytes = |blocks: u64| {
        blocks
            .checked_mul(block_size)
            .ok_or(io::ErrorKind::InvalidData)
    };
    Ok((bytes(both(0x4, 0x150))?, bytes(both(0xc, 0x158))?))
}

/// The digest of both: an image is another one with another `/root`.
fn of_both(rootfs: &Path, seed: &Path) -> Result<Digest, FileError> {
    let mut hash = Sha256::new();
    for path in [rootfs, seed] {
        let file = File::open(path).context("read", path)?;
        let digest = digest::of_file(&file).context("read", path)?;
        hash.update(digest.to_string());
    }
    Ok(Digest::of_sha256(hash.finalize().into()))
}

#[cfg(test)]
mod tests;
