//! Layers that another image has already: their entries are applied again, and their contents copied out of its root
//! file system, or shared with it where the host's file system can. Only contents that the other image does not have
//! any more, as one of its upper layers hides them, are unpacked again.
//!
//! What comes out is, byte for byte, what unpacking the layer would have made (a property test compares).

use std::fs::File;
use std::io;
use std::path::Path;

use banger_core::Digest;
use banger_ext4::{Content, FileData, NodeId, Refill, Run, Tree};

use crate::index::LayerIndex;
use crate::layer::{LayerBlob, LayerError, Target, read_layer};
use crate::tar::{EntryKind, Piece};
use crate::watch::Watch;

/// Blocks copied between two questions whether the image is still wanted.
const AT_ONCE: u64 = 16 << 10;

/// An image whose layers can be reused.
#[derive(Debug)]
pub struct Donor {
    index: LayerIndex,
    rootfs: File,
}

impl Donor {
    /// Opens an image's index and its root file system, which nothing has written to since it was made.
    ///
    /// # Errors
    /// One is not there or unusable.
    pub fn open(index: &Path, rootfs: &Path) -> io::Result<Self> {
        let index = LayerIndex::open(File::open(index)?)?;
        let rootfs = File::open(rootfs)?;
        Ok(Self { index, rootfs })
    }

    /// Whether it has any of these layers, by the digests of their contents.
    #[must_use]
    pub fn has_any(&self, layers: &[Digest]) -> bool {
        layers
            .iter()
            .any(|diff_id| self.index.find(diff_id).is_some())
    }
}

/// A layer of a donor.
pub(crate) struct Found<'a> {
    donor: &'a Donor,
    layer: usize,
}

/// The layer with that content, of the image that has most of it. Its index was read and is whole.
pub(crate) fn find<'a>(donors: &'a [Donor], diff_id: &Digest) -> Option<Found<'a>> {
    let having = donors.iter().filter_map(|donor| {
        let layer = donor.index.find(diff_id)?;
        Some(Found { donor, layer })
    });
    let found = having.max_by_key(|found| found.donor.index.kept(found.layer))?;
    let read = found
        .donor
        .index
        .entries(found.layer, |_, _, _| io::Result::Ok(()));
    read.is_ok().then_some(found)
}

/// A content of a reused layer.
struct Reused {
    entry: u32,
    /// Its first block here.
    first: u64,
    /// Its part of the layer's runs.
    runs: std::ops::Range<usize>,
    is_kept: bool,
}

/// A reused layer, whose contents are still missing.
pub(crate) struct Promise<'a> {
    /// Which layer of the new image, from 0.
    pub(crate) layer: usize,
    donor: &'a Donor,
    contents: Vec<Reused>,
    runs: Vec<Run>,
}

impl Target<'_> {
    /// Applies a donor's layer; room for its contents is taken.
    pub(crate) fn reuse<'a>(
        &mut self,
        layer: usize,
        found: &Found<'a>,
    ) -> Result<Promise<'a>, LayerError> {
        let index = &found.donor.index;
        let mut promise = Promise {
            layer,
            donor: found.donor,
            contents: vec![],
            runs: vec![],
        };
        self.merger.next_layer();
        index.entries(found.layer, |number, entry, from| {
            let to = self.place(&from)?;
            if let Some(first) = to.first_block() {
                let start = promise.runs.len();
                promise.runs.extend(from.runs_to(&to));
                promise.contents.push(Reused {
                    entry: number,
                    first,
                    runs: start..promise.runs.len(),
                    is_kept: index.keeps(found.layer, number),
                });
            }
            self.enter(entry, to)
        })?;
        Ok(promise)
    }
}

/// The contents in a finished tree, by their first blocks.
pub(crate) struct Kept<'a> {
    contents: Vec<(u64, &'a FileData)>,
}

impl<'a> Kept<'a> {
    /// Those that a name leads to.
    pub(crate) fn of(tree: &'a Tree) -> Self {
        let mut contents = Vec::new();
        let mut seen = vec![false; tree.nodes.len()];
        let mut open = vec![Tree::ROOT];
        while let Some(id @ NodeId(number)) = open.pop() {
            if std::mem::replace(&mut seen[number], true) {
                continue;
            }
            match &tree.node(id).content {
                Content::Directory(names) => open.extend(names.iter().map(|(_, id)| *id)),
                Content::File(data) => {
                    contents.extend(data.first_block().map(|first| (first, data)));
                }
                _ => {}
            }
        }
        contents.sort_unstable_by_key(|(first, _)| *first);
        Self { contents }
    }

    fn get(&self, first: u64) -> Option<&'a FileData> {
        let at = self.contents.binary_search_by_key(&first, |(at, _)| *at);
        at.ok().map(|at| self.contents[at].1)
    }

    /// Whether the content that begins in that block is in the tree.
    pub(crate) fn contains(&self, first: u64) -> bool {
        self.get(first).is_some()
    }
}

impl Promise<'_> {
    /// Copies what the tree has of the layer's contents. Returns those that the donor does not have any more: entries
    /// in order, and where their contents belong.
    pub(crate) fn copy<'a>(
        &self,
        kept: &Kept<'a>,
        to: &File,
        watch: &dyn Watch,
    ) -> Result<Vec<(u32, &'a FileData)>, LayerError> {
        let mut missing = Vec::new();
        let mut next: Option<Run> = None;
        for content in &self.contents {
            let Some(data) = kept.get(content.first) else {
                continue;
            };
            if !content.is_kept {
                missing.push((content.entry, data));
                continue;
            }
            for run in &self.runs[content.runs.clone()] {
                let joined = next.as_mut().is_some_and(|last| last.join(run));
                if !joined && let Some(done) = next.replace(*run) {
                    self.copy_run(done, to, watch)?;
                }
            }
        }
        if let Some(last) = next {
            self.copy_run(last, to, watch)?;
        }
        Ok(missing)
    }

    fn copy_run(&self, run: Run, to: &File, watch: &dyn Watch) -> Result<(), LayerError> {
        let mut done = 0;
        while done < run.count {
            if watch.cancelled() {
                return Err(LayerError::Cancelled);
            }
            let part = Run {
                from: run.from + done,
                to: run.to + done,
                count: (run.count - done).min(AT_ONCE),
            };
            part.copy(&self.donor.rootfs, to)?;
            done += part.count;
        }
        Ok(())
    }
}

/// Unpacks a layer again, for these contents only.
pub(crate) fn refill(
    blob: &LayerBlob,
    missing: &[(u32, &FileData)],
    to: &File,
    watch: &dyn Watch,
) -> Result<(), LayerError> {
    let mut missing = missing.iter().peekable();
    read_layer(blob, |tar| {
        let mut number = 0;
        while let Some(entry) = tar.next_entry()? {
            if watch.cancelled() {
                return Err(LayerError::Cancelled);
            }
            let wanted = missing.next_if(|(at, _)| *at == number);
            number += 1;
            if let Some((_, data)) = wanted
                && entry.kind == EntryKind::File
            {
                let mut refill = Refill::new(to, data);
                tar.content(|piece| match piece {
                    Piece::Bytes(bytes) => refill.write(bytes).map_err(LayerError::Write),
                    Piece::Zeros(count) => {
                        refill.skip(count);
                        Ok(())
                    }
                })?;
            }
        }
        Ok(())
    })
}
