//! Layers that another image has already: their entries are applied again, and their contents copied out of its root
//! file system, or shared with it where the host's file system can. Only for contents that the other image does not
//! have any more, as one of its upper layers hides them, or that cannot be read there, a layer is unpacked again.
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
    name: String,
    index: LayerIndex,
    rootfs: File,
}

impl Donor {
    /// Opens an image's index and its root file system. `name` is what it is called when something is said of it.
    ///
    /// # Errors
    /// One is not there or unusable, or something was written to the file system since it was made.
    pub fn open(name: &str, index: &Path, rootfs: &Path) -> io::Result<Self> {
        let (index, rootfs) = (File::open(index)?, File::open(rootfs)?);
        // The index is ended last.
        if rootfs.metadata()?.modified()? > index.metadata()?.modified()? {
            return Err(io::Error::other("the file system is newer than its index"));
        }
        Ok(Self {
            name: name.to_owned(),
            index: LayerIndex::open(index)?,
            rootfs,
        })
    }

    /// Whether it has any of these layers, by the digests of their contents.
    #[must_use]
    pub fn has_any(&self, layers: &[Digest]) -> bool {
        let has = |diff_id| self.index.find(diff_id).next().is_some();
        layers.iter().any(has)
    }
}

/// A layer of a donor.
pub(crate) struct Found<'a> {
    donor: &'a Donor,
    layer: usize,
}

impl Found<'_> {
    /// The donor's name.
    pub(crate) fn name(&self) -> &str {
        &self.donor.name
    }

    fn is_whole(&self) -> bool {
        self.donor.index.is_whole(self.layer)
    }
}

/// The layer with that content, of the image that has most of it. Its index was read and is whole.
pub(crate) fn find<'a>(donors: &'a [Donor], diff_id: &Digest) -> Option<Found<'a>> {
    let having = donors.iter().flat_map(|donor| {
        let layers = donor.index.find(diff_id);
        layers.map(move |layer| Found { donor, layer })
    });
    let mut having: Vec<Found<'_>> = having.collect();
    having.sort_by_key(|found| std::cmp::Reverse(found.donor.index.kept(found.layer)));
    having.into_iter().find(Found::is_whole)
}

/// A content of a reused layer.
struct Reused {
    entry: u32,
    /// Its first block here.
    first: u64,
    /// Where it is there.
    from: FileData,
    is_kept: bool,
}

/// A reused layer, whose contents are still missing.
pub(crate) struct Promise<'a> {
    /// Which layer of the new image, from 0.
    pub(crate) layer: usize,
    donor: &'a Donor,
    contents: Vec<Reused>,
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
        };
        self.merger.next_layer();
        index.entries(found.layer, |number, entry, from| {
            let to = self.place(&from)?;
            if let Some(first) = to.first_block() {
                promise.contents.push(Reused {
                    entry: number,
                    first,
                    from,
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

/// Contents that are not there yet: entries in order, and where their contents belong.
pub(crate) type Missing<'a> = Vec<(u32, &'a FileData)>;

impl Promise<'_> {
    /// Copies what the tree has of the layer's contents. Returns those that the donor does not have any more; all of
    /// them, when it cannot be read.
    pub(crate) fn copy<'a>(
        &self,
        kept: &Kept<'a>,
        to: &File,
        watch: &dyn Watch,
    ) -> Result<Missing<'a>, LayerError> {
        let wanted = self.contents.iter();
        let wanted = wanted.filter_map(|content| Some((content, kept.get(content.first)?)));
        let missing = |is_missing: fn(&Reused) -> bool| {
            let missing = wanted.clone().filter(|(content, _)| is_missing(content));
            missing
                .map(|(content, data)| (content.entry, data))
                .collect()
        };
        let mut runs: Vec<Run> = Vec::new();
        for (content, data) in wanted.clone().filter(|(content, _)| content.is_kept) {
            content.from.add_runs(data, &mut runs);
        }
        for run in runs {
            match self.copy_run(run, to, watch) {
                Ok(()) => {}
                Err(LayerError::Write(error)) if error.kind() != io::ErrorKind::StorageFull => {
                    let name = &self.donor.name;
                    watch.line(&format!("`{name}` cannot be copied from: {error}"));
                    return Ok(missing(|_| true));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(missing(|content| !content.is_kept))
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
            let copied = part.copy(&self.donor.rootfs, to);
            copied.map_err(LayerError::Write)?;
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
