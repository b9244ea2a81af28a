//! Files inside of a tar file, found without unpacking it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::decompress::Packing;
use crate::error::{Context, MalformedError, PullError};
use crate::path;
use crate::tar::{EntryKind, TarReader};

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
    pub(crate) fn open(archive: &Path) -> Result<Self, PullError> {
        let malformed = |why: String| PullError::Malformed {
            image: archive.display().to_string(),
            source: MalformedError::new(why),
        };
        let file = File::open(archive).context("read", archive)?;
        let mut start = [0; 4];
        let _ = file.read_at(&mut start, 0).context("read", archive)?;
        if Packing::of(&start) != Packing::None {
            return Err(malformed(
                "the archive is compressed as a whole; unpack it with gunzip or unzstd first"
                    .to_owned(),
            ));
        }
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

fn shown(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
