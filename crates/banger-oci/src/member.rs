//! Files inside of a tar file, found without unpacking it. One that is compressed as a whole is decompressed once, into a file that
//! has no name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::decompress::{Packing, ZSTD_WINDOW_LOG};
use crate::error::{Context, MalformedError, PullError};
use crate::layer::{RATIO_MAX, RATIO_SLACK};
use crate::path;
use crate::tar::{EntryKind, TarReader};
use crate::watch::Watch;

const MEMBERS_MAX: usize = 100_000;
const LINKS_MAX: usize = 8;

/// Where a member's content is, or what it leads to.
#[derive(Debug, Clone)]
enum Member {
    File { offset: u64, length: u64 },
    Link(Vec<u8>),
}

/// An archive's members by name.
#[derive(Debug)]
pub(crate) struct Members {
    file: File,
    members: HashMap<Vec<u8>, Member>,
}

impl Members {
    /// Opens an archive; what has to be decompressed first goes below `scratch`.
    pub(crate) fn open(
        archive: &Path,
        scratch: &Path,
        watch: &dyn Watch,
    ) -> Result<Self, PullError> {
        let malformed = |why| malformed(archive, why);
        let file = File::open(archive).context("read", archive)?;
        let mut start = [0; 4];
        let _ = file.read_at(&mut start, 0).context("read", archive)?;
        let file = match Packing::of(&start) {
            Packing::None => file,
            packing => whole(&file, packing, archive, scratch, watch)?,
        };
        let mut members = HashMap::new();
        let length = file.metadata().context("read", archive)?.len();
        let mut at = 0;
        while at < length {
            let mut part = file.try_clone().context("read", archive)?;
            part.seek(SeekFrom::Start(at)).context("read", archive)?;
            let input = BufReader::with_capacity(4 << 10, part);
            let mut tar = TarReader::new(input);
            // One entry at a time: its content is not read.
            let entry = tar.next_entry().map_err(|error| malformed(shown(&error)))?;
            let Some(entry) = entry else { break };
            let (offset, size) = tar.content_place();
            let name = path::clean(&entry.name).join(&b'/');
            let member = match entry.kind {
                EntryKind::File => Some(Member::File {
                    offset: at + offset,
                    length: size,
                }),
                EntryKind::HardLink(target) => Some(Member::Link(path::clean(&target).join(&b'/'))),
                EntryKind::Symlink(target) => {
                    let folder = name
                        .rsplit(|byte| *byte == b'/')
                        .skip(1)
                        .collect::<Vec<_>>();
                    let folder = folder.into_iter().rev().collect::<Vec<_>>().join(&b'/');
                    Some(Member::Link(
                        path::clean(&[&folder, b"/".as_slice(), &target].concat()).join(&b'/'),
                    ))
                }
                _ => None,
            };
            members.extend(member.map(|member| (name, member)));
            if members.len() > MEMBERS_MAX {
                return Err(malformed(format!("it has more than {MEMBERS_MAX} members")));
            }
            let next = at
                .checked_add(offset)
                .and_then(|at| at.checked_add(size.checked_next_multiple_of(512)?));
            at = next.ok_or_else(|| malformed("a member's size is beyond all files".to_owned()))?;
        }
        Ok(Self { file, members })
    }

    /// A member's place: offset and length.
    pub(crate) fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = path::clean(name.as_bytes()).join(&b'/');
        for _ in 0..LINKS_MAX {
            match self.members.get(&name)? {
                Member::File { offset, length } => return Some((*offset, *length)),
                Member::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// All of a small member.
    pub(crate) fn read(&self, name: &str, max: u64) -> Option<std::io::Result<Vec<u8>>> {
        let (offset, length) = self.find(name)?;
        if length > max {
            return Some(Err(std::io::ErrorKind::FileTooLarge.into()));
        }
        let mut bytes = vec![0; length as usize];
        Some(self.file.read_exact_at(&mut bytes, offset).map(|()| bytes))
    }

    pub(crate) fn file(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

fn malformed(archive: &Path, why: String) -> PullError {
    PullError::Malformed {
        image: archive.display().to_string(),
        source: MalformedError::new(why),
    }
}

const CHUNK: usize = 256 << 10;

/// The archive, decompressed.
fn whole(
    packed: &File,
    packing: Packing,
    archive: &Path,
    scratch: &Path,
    watch: &dyn Watch,
) -> Result<File, PullError> {
    let malformed = |why| malformed(archive, why);
    watch.step("decompress the archive");
    let length = packed.metadata().context("read", archive)?.len();
    let limit = length.saturating_mul(RATIO_MAX).saturating_add(RATIO_SLACK);
    let input = BufReader::with_capacity(CHUNK, packed);
    let mut from: Box<dyn Read + '_> = match packing {
        Packing::None => Box::new(input),
        Packing::Gzip => Box::new(MultiGzDecoder::new(input)),
        Packing::Zstd => {
            let decoder = zstd::Decoder::with_buffer(input);
            let mut decoder = decoder.context("read", archive)?;
            let bounded = decoder.window_log_max(ZSTD_WINDOW_LOG);
            bounded.context("read", archive)?;
            Box::new(decoder)
        }
    };
    let mut to = tempfile::tempfile_in(scratch).context("write below", scratch)?;
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    loop {
        if watch.cancelled() {
            return Err(PullError::Cancelled);
        }
        let count = match from.read(&mut chunk) {
            Ok(0) => return Ok(to),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(malformed(format!("it cannot be decompressed: {error}")));
            }
        };
        total += count as u64;
        if total > limit {
            return Err(malformed(format!(
                "it has {length} bytes and decompresses to more than {limit}: it is made to fill disks"
            )));
        }
        to.write_all(&chunk[..count])
            .context("write below", scratch)?;
    }
}

fn shown(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
