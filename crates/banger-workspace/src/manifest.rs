//! What was sent last, as it stands in the guest beside what was sent.

use std::collections::BTreeMap;

use banger_guest_proto::{Entry, EntryKind, Frame, Record, RecordReader, RecordWriter, RelPath};
use serde::{Deserialize, Serialize};

/// What stands at paths.
pub(crate) type Entries = BTreeMap<RelPath, Entry>;

/// Where a checkout's `HEAD` is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The branch, as a full name; without one it is detached.
    pub branch: Option<String>,
    /// The commit; an empty repository has none.
    pub commit: Option<String>,
}

/// What the git metadata were made from: the same again needs not be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitState {
    /// The mode's name.
    pub mode: String,
    /// Where `HEAD` was.
    pub head: Head,
    /// A digest of the index.
    pub index: String,
    /// A digest of the references, when all were sent.
    pub refs: String,
}

/// All that was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The metadata.
    pub git: GitState,
    /// The files and links of the work tree.
    pub entries: Entries,
}

/// Whether an entry stands for the same content: what git looks at, too.
#[must_use]
pub(crate) fn same(a: &Entry, b: &Entry) -> bool {
    match (&a.kind, &b.kind) {
        (EntryKind::File { size: one, .. }, EntryKind::File { size: other, .. }) => {
            one == other && a.mtime == b.mtime && (a.mode ^ b.mode) & 0o100 == 0
        }
        (EntryKind::Symlink(one), EntryKind::Symlink(other)) => one == other,
        _ => false,
    }
}

/// A manifest as a file's content.
pub(crate) fn encode(git: &GitState, entries: &Entries) -> Vec<u8> {
    let mut bytes = vec![];
    let mut out = RecordWriter::new(&mut bytes);
    let written = out
        .control(git)
        .and_then(|()| entries.values().try_for_each(|entry| out.entry(entry)))
        .and_then(|()| out.end());
    debug_assert!(written.is_ok(), "memory takes all");
    drop(out);
    bytes
}

impl Manifest {
    /// As a file's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.git, &self.entries)
    }

    /// From a file's content, which the guest may have written: whatever makes no sense is nothing.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut records = RecordReader::new(bytes, &[]);
        let mut manifest = match records.next_record().ok()? {
            Record::Control(json) => Self {
                git: Frame::parse(json).ok()?,
                entries: Entries::new(),
            },
            _ => return None,
        };
        loop {
            match records.next_record().ok()? {
                Record::Entry(entry) => manifest.entries.insert(entry.path.clone(), entry),
                Record::End => return Some(manifest),
                _ => return None,
            };
        }
    }
}
