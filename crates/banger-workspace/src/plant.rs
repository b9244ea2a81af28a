//! A checkout in a work disk that no guest has had yet: written here, before the VM is made, as it would arrive in the guest.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use banger_ext4::{FormatError, FsOptions, ReadTreeError, is_plain};
use banger_files::Sender;
use banger_guest::files::TransferError;
use banger_guest_proto::{FilesDone, ReadRecordError, Record, RecordReader, RecordWriter, RelPath};

use crate::checkout::Collected;
use crate::fresh_disk::FreshDisk;
use crate::manifest::Entries;
use crate::plan::plan;
use crate::prepare::{GuestState, PrepareError, Prepared, below, keep_guests, local, report};
use crate::transfer::{Files, Outgoing, note};

/// A seed that takes more bytes than this is not written again: the daemon copies it as it is, shared where the file
/// system can do that, and the checkout is sent.
const LARGE_SEED: u64 = 256 << 20;

/// Where a checkout is to be.
#[derive(Debug, Clone, Copy)]
pub struct Spot<'a> {
    /// What the work disk begins with; nothing without it.
    pub seed: Option<&'a Path>,
    /// Where the work disk is mounted in the guest.
    pub home: &'a Path,
    /// The folder, which is below that.
    pub path: &'a Path,
}

/// Why there is no such work disk.
#[derive(Debug, thiserror::Error)]
pub enum PlantError {
    /// The checkout itself.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The seed cannot be read.
    #[error("the image's work seed {0} cannot be read")]
    Seed(String, #[source] ReadTreeError),
    /// It cannot be written.
    #[error("the work disk cannot be written")]
    Write(#[source] io::Error),
    /// It does not fit into a file system.
    #[error("the work disk cannot be made")]
    Format(#[from] FormatError),
    /// What is sent was not understood; a defect.
    #[error("what was to be written was not understood")]
    Record(#[source] ReadRecordError),
}

impl PlantError {
    /// Whether it is the seed that cannot be read: the checkout can be sent all the same.
    #[must_use]
    pub const fn is_of_seed(&self) -> bool {
        match self {
            Self::Seed(_, error) => !matches!(error, ReadTreeError::Write(_)),
            _ => false,
        }
    }

    /// Whether there was no room for it here.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        match self {
            Self::Seed(_, ReadTreeError::Write(error))
            | Self::Write(error)
            | Self::Format(FormatError::Io(error)) => is_full(error),
            _ => false,
        }
    }
}

/// Writes a work seed with the checkout in it into an empty file. `None` where the seed cannot be written again as it is, is large, or has something at the path: it must be sent to the guest then.
/// `progress` is told of the bytes that pass, and ends it with an error.
///
/// # Errors
/// See [`PlantError`].
pub fn plant(
    checkout: &Collected,
    spot: Spot<'_>,
    to: File,
    progress: &dyn Fn(u64) -> io::Result<()>,
) -> Result<Option<Prepared>, PlantError> {
    let path = below(spot.home, spot.path)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let disk = match spot.seed {
        Some(seed) => of_seed(seed, to, &path, now)
            .map_err(|error| PlantError::Seed(seed.display().to_string(), error))?,
        None => FreshDisk::empty(to, &path, now),
    };
    let Some(disk) = disk else {
        return Ok(None);
    };
    let packed = checkout.metadata(None).map_err(PrepareError::from)?;
    let nothing = GuestState::default();
    for ((at, _), repo) in packed.places.iter().zip(&checkout.repos) {
        keep_guests(at, &nothing, repo).map_err(local)?;
    }
    let none = Entries::new();
    let (steps, _) = plan(&checkout.entries, &none, &none, false);
    let mut prepared = report(checkout, spot.path, &steps, &packed.places);
    let files = Files {
        entries: checkout.entries.clone(),
        steps,
        before: &none,
    };
    let outgoing = Outgoing::open(checkout, &packed.places)?;
    let (from, into) = io::pipe().map_err(PlantError::Write)?;
    let (grown, sent) = std::thread::scope(|scope| {
        // Whichever ends early closes its end, and the other ends, too.
        let grown = scope.spawn(move || grow(disk, from));
        let sent = send(&outgoing, files, Counted(into, progress));
        (grown.join(), sent)
    });
    let grown = grown.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let (disk, left_out) = match (grown, sent) {
        (Ok(disk), Ok(left_out)) => (disk, left_out),
        // What ended because the other one had is not the reason.
        (Ok(_) | Err(PlantError::Record(ReadRecordError::Closed)), Err(error)) => {
            return Err(PrepareError::from(error).into());
        }
        (Err(error), _) => return Err(error),
    };
    note(&mut prepared, &left_out);
    let time = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
    let (writer, tree, uuid) = disk.into_parts();
    banger_ext4::format(writer, &tree, &FsOptions::of_work_seed(uuid, uuid, time))?;
    Ok(Some(prepared))
}

/// Begins with that seed, where it can be written again as it is.
fn of_seed(
    seed: &Path,
    to: File,
    path: &RelPath,
    now: Duration,
) -> Result<Option<FreshDisk>, ReadTreeError> {
    let file = File::open(seed).map_err(ReadTreeError::Open)?;
    let taken = file.metadata().map_err(ReadTreeError::Open)?.blocks() * 512;
    if taken > LARGE_SEED || !is_plain(&file).map_err(ReadTreeError::Open)? {
        return Ok(None);
    }
    FreshDisk::of_seed(file, to, path, now)
}

/// Tells of what passes.
struct Counted<'a>(PipeWriter, &'a dyn Fn(u64) -> io::Result<()>);

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        (self.1)(count as u64)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn send(
    outgoing: &Outgoing<'_>,
    mut files: Files<'_>,
    into: Counted<'_>,
) -> Result<FilesDone, TransferError> {
    let mut sender = Sender::new(RecordWriter::new(into), true, true);
    outgoing.send(&mut sender, &mut files)?;
    let (_, done) = sender.end()?;
    Ok(done)
}

fn grow(mut disk: FreshDisk, from: PipeReader) -> Result<FreshDisk, PlantError> {
    let mut records = RecordReader::new(from, &[]);
    loop {
        match records.next_record() {
            Ok(Record::End) => {
                disk.close().map_err(PlantError::Write)?;
                return Ok(disk);
            }
            Ok(record) => disk.take(record).map_err(PlantError::Write)?,
            Err(error) => return Err(PlantError::Record(error)),
        }
    }
}
