//! Everything but the contents of files.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::data::{Cursor, DataWriter};
use crate::directory::{self, Entry, Place, kind_of};
use crate::encode::{crc, put32};
use crate::extent::{self, FileData};
use crate::geometry::{FIRST_INODE, Geometry, INODE_SIZE, RESERVED};
use crate::groups::{self, Tables, UsedBlocks, UsedInodes};
use crate::inode::{self, EXTENTS, INDEX, Inode};
use crate::superblock::{self, Counts, JOURNAL_INODE};
use crate::tree::{Attributes, Content, Node, NodeId, Tree};
use crate::{BLOCK, FormatError, GROUP, LINK_MAX, journal, xattr};

const ROOT_INODE: u32 = 2;
const RESIZE_INODE: u32 = 7;
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// A target so short stands in the inode.
const SHORT_LINK: usize = 60;

/// What the file system is called, and how large it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsOptions {
    /// Its label: up to 16 bytes.
    pub label: String,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// What hashes of names begin with.
    pub hash_seed: [u8; 16],
    /// When it was made, in seconds since 1970.
    pub time: u32,
    /// Bytes that shall be free, at least.
    pub free: u64,
    /// The size is a multiple of this many bytes, itself a multiple of 64 MiB.
    pub round: u64,
    /// The journal's size in blocks: from 1,024 up.
    pub journal_blocks: u32,
}

impl FsOptions {
    /// Of a small file system, which is copied and grown then: a work seed.
    #[must_use]
    pub fn of_work_seed(uuid: [u8; 16], hash_seed: [u8; 16], time: u32) -> Self {
        Self {
            label: "work".to_owned(),
            uuid,
            hash_seed,
            time,
            free: 8 << 20,
            round: 64 << 20,
            journal_blocks: 4 << 10,
        }
    }

    pub(crate) fn hash_words(&self) -> [u32; 4] {
        let (words, _) = self.hash_seed.as_chunks::<4>();
        std::array::from_fn(|index| u32::from_le_bytes(words[index]))
    }
}

/// A finished file system.
#[derive(Debug)]
pub struct Formatted {
    /// The file.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
}

/// Writes everything that is missing, and gives the room of contents that nothing in the tree has back.
///
/// # Errors
/// See [`FormatError`].
pub fn format(
    writer: DataWriter,
    tree: &Tree,
    options: &FsOptions,
) -> Result<Formatted, FormatError> {
    let numbers = Numbers::new(tree);
    let seed = crc(!0, &options.uuid);
    let formatter = Formatter {
        tree,
        options,
        numbers,
        seed,
        writer,
        used: vec![],
        inodes: vec![],
        directories: vec![],
    };
    formatter.run()
}

/// The inode of each node, and the other way round.
#[derive(Debug)]
struct Numbers {
    of_node: Vec<u32>,
    /// Nodes in the order of their inodes; `lost+found` is none.
    order: Vec<Option<NodeId>>,
    links: Vec<u64>,
    parents: Vec<u32>,
}

impl Numbers {
    fn new(tree: &Tree) -> Self {
        let count = tree.nodes.len();
        let mut numbers = Self {
            of_node: vec![0; count],
            order: vec![],
            links: vec![0; count],
            parents: vec![0; count],
        };
        numbers.of_node[0] = ROOT_INODE;
        numbers.parents[0] = ROOT_INODE;
        numbers.links[0] = 2;
        if !has_lost_and_found(tree) {
            numbers.order.push(None);
            numbers.links[0] += 1;
        }
        // Each directory's children together, directories in depth-first order.
        let mut open = vec![Tree::ROOT];
        while let Some(directory) = open.pop() {
            let Content::Directory(entries) = &tree.node(directory).content else {
                continue;
            };
            let first_new = open.len();
            for (_, child) in entries {
                let is_directory = matches!(tree.node(*child).content, Content::Directory(_));
                numbers.links[child.0] += if is_directory { 2 } else { 1 };
                if numbers.of_node[child.0] == 0 {
                    numbers.of_node[child.0] = FIRST_INODE + numbers.order.len() as u32;
                    numbers.order.push(Some(*child));
                }
                if is_directory {
                    numbers.links[directory.0] += 1;
                    numbers.parents[child.0] = numbers.of_node[directory.0];
                    open.push(*child);
                }
            }
            open[first_new..].reverse();
        }
        numbers
    }

    fn count(&self) -> u64 {
        u64::from(FIRST_INODE) - 1 + self.order.len() as u64
    }
}

fn has_lost_and_found(tree: &Tree) -> bool {
    match &tree.node(Tree::ROOT).content {
        Content::Directory(entries) => entries.iter().any(|(name, _)| **name == *LOST_AND_FOUND),
        _ => false,
    }
}

struct Formatter<'a> {
    tree: &'a Tree,
    options: &'a FsOptions,
    numbers: Numbers,
    seed: u32,
    writer: DataWriter,
    /// Stretches of blocks that are used.
    used: Vec<(u64, u64)>,
    /// Inodes from the first that is not reserved, as they are on disk.
    inodes: Vec<[u8; INODE_SIZE as usize]>,
    directories: Vec<u32>,
}

impl Formatter<'_> {
    fn run(mut self) -> Result<Formatted, FormatError> {
        let root = self.node_inode(Tree::ROOT)?;
        for index in 0..self.numbers.order.len() {
            let encoded = match self.numbers.order[index] {
                Some(node) => self.node_inode(node)?,
                None => self.lost_and_found()?,
            };
            self.inodes.push(encoded);
        }
        let journal = self.journal()?;
        let growth_list = self.take(1);
        let (geometry, tables) = self.place_tables()?;
        let reserved = self.reserved_inodes(root, &geometry, &journal, growth_list)?;
        self.write_tables(&geometry, &tables, &reserved)?;
        let used = self.used_blocks(&geometry);
        self.give_back(&used)?;
        self.write_groups(&geometry, &tables, &used, &journal)?;
        self.writer.flush()?;
        let size = geometry.blocks * BLOCK as u64;
        self.writer.file.set_len(size)?;
        Ok(Formatted {
            file: self.writer.file,
            size,
        })
    }

    fn take(&mut self, count: u64) -> u64 {
        let start = self.writer.cursor.take_together(count);
        self.used.push((start, count));
        start
    }

    fn write_block(&self, at: u64, bytes: &[u8]) -> Result<(), FormatError> {
        self.writer.file.write_all_at(bytes, at * BLOCK as u64)?;
        Ok(())
    }

    fn inode_seed(&self, number: u32) -> u32 {
        inode::seed(self.seed, number)
    }

    /// Writes what a file needs outside of its inode, and makes that.
    fn node_inode(&mut self, id: NodeId) -> Result<[u8; INODE_SIZE as usize], FormatError> {
        let tree = self.tree;
        let Node {
            attributes,
            content,
        } = tree.node(id);
        let number = self.numbers.of_node[id.0];
        let links = self.numbers.links[id.0];
        let mut inode = own_inode(inode::kind_bits(content), attributes);
        inode.links = links as u16;
        match content {
            Content::Directory(entries) => {
                // More subdirectories than can be counted are told as one.
                if links >= u64::from(LINK_MAX) {
                    inode.links = 1;
                }
                self.directory(id, entries, &mut inode)?;
            }
            _ if links > u64::from(LINK_MAX) => {
                return Err(FormatError::TooManyLinks { node: id, links });
            }
            Content::File(data) => self.map(id, number, data, &mut inode)?,
            Content::Symlink(target) => self.symlink(id, number, target, &mut inode)?,
            Content::Device { major, minor, .. } => inode.body = inode::device(*major, *minor),
            Content::Fifo => {}
        }
        let layout = xattr::Layout::of(&attributes.xattrs)
            .map_err(|bytes| FormatError::AttributesTooLarge { node: id, bytes })?;
        inode.in_inode = layout.in_inode();
        if layout.needs_block() {
            let at = self.take(1);
            self.write_block(at, &layout.in_block(at, self.seed))?;
            inode.attribute_block = at;
            inode.blocks += 1;
        }
        Ok(inode.encode(self.inode_seed(number)))
    }

    fn directory(
        &mut self,
        id: NodeId,
        entries: &[(Box<[u8]>, NodeId)],
        inode: &mut Inode<'_>,
    ) -> Result<(), FormatError> {
        let number = self.numbers.of_node[id.0];
        let mut list: Vec<Entry<'_>> = entries
            .iter()
            .map(|(name, child)| Entry {
                name,
                inode: self.numbers.of_node[child.0],
                kind: kind_of(&self.tree.node(*child).content),
            })
            .collect();
        if id == Tree::ROOT && !has_lost_and_found(self.tree) {
            let lost_and_found = Entry {
                name: LOST_AND_FOUND,
                inode: FIRST_INODE,
                kind: directory::DIRECTORY,
            };
            list.push(lost_and_found);
        }
        self.directory_blocks(id, number, self.numbers.parents[id.0], &list, inode)
    }

    fn directory_blocks(
        &mut self,
        id: NodeId,
        number: u32,
        parent: u32,
        entries: &[Entry<'_>],
        inode: &mut Inode<'_>,
    ) -> Result<(), FormatError> {
        let place = Place {
            inode: number,
            parent,
            seed: self.inode_seed(number),
            hash_seed: &self.options.hash_words(),
        };
        let (blocks, has_index) =
            directory::blocks(place, entries).ok_or(FormatError::DirectoryTooLarge { node: id })?;
        for block in &blocks {
            self.writer.write(block)?;
        }
        let data = self.writer.finish()?;
        self.directories.push(number);
        if has_index {
            inode.flags |= INDEX;
        }
        self.map(id, number, &data, inode)
    }

    fn symlink(
        &mut self,
        id: NodeId,
        number: u32,
        target: &[u8],
        inode: &mut Inode<'_>,
    ) -> Result<(), FormatError> {
        if target.len() < SHORT_LINK {
            inode.body[..target.len()].copy_from_slice(target);
            inode.size = target.len() as u64;
            return Ok(());
        }
        self.writer.write(target)?;
        let data = self.writer.finish()?;
        self.map(id, number, &data, inode)
    }

    /// Enters where a file's bytes are into its inode.
    fn map(
        &mut self,
        id: NodeId,
        number: u32,
        data: &FileData,
        inode: &mut Inode<'_>,
    ) -> Result<(), FormatError> {
        let needed = extent::blocks_needed(data.extents.len())
            .ok_or(FormatError::TooFragmented { node: id })?;
        let blocks: Vec<u64> = (0..needed).map(|_| self.take(1)).collect();
        let (body, contents) = extent::tree(&data.extents, &blocks, self.inode_seed(number));
        for (at, bytes) in blocks.iter().zip(&contents) {
            self.write_block(*at, bytes)?;
        }
        let runs = data.extents.iter().map(|e| (e.start, u64::from(e.count)));
        self.used.extend(runs);
        inode.body = body;
        inode.flags |= EXTENTS;
        inode.size = data.size;
        inode.blocks += data.block_count() + needed as u64;
        Ok(())
    }

    fn lost_and_found(&mut self) -> Result<[u8; INODE_SIZE as usize], FormatError> {
        let attributes = Attributes {
            mode: 0o700,
            ..self.own_attributes()
        };
        let mut inode = own_inode(inode::DIRECTORY, &attributes);
        inode.links = 2;
        self.directory_blocks(Tree::ROOT, FIRST_INODE, ROOT_INODE, &[], &mut inode)?;
        Ok(inode.encode(self.inode_seed(FIRST_INODE)))
    }

    fn own_attributes(&self) -> Attributes {
        let time = crate::Time {
            seconds: self.options.time.into(),
            nanoseconds: 0,
        };
        Attributes {
            mode: 0o600,
            mtime: time,
            atime: time,
            ..Attributes::default()
        }
    }

    /// Takes the journal's blocks and writes the first of them; the others are zeros.
    fn journal(&mut self) -> Result<FileData, FormatError> {
        let mut data = FileData::default();
        for logical in 0..self.options.journal_blocks {
            data.push(logical, self.writer.cursor.take());
        }
        data.size = u64::from(self.options.journal_blocks) * BLOCK as u64;
        let first = data.extents[0].start;
        self.write_block(first, &journal::super_block(self.options.journal_blocks))?;
        Ok(data)
    }

    /// Decides the size, and where each group's tables are.
    fn place_tables(&mut self) -> Result<(Geometry, Vec<Tables>), FormatError> {
        let round = self.options.round.max(1 << 26) / BLOCK as u64;
        let free = self.options.free.div_ceil(BLOCK as u64);
        let limit = (RESERVED - 1) * 64 * GROUP;
        let mut blocks = (self.writer.cursor.position() + free).next_multiple_of(round);
        while blocks <= limit {
            let Some(geometry) = Geometry::new(blocks, self.numbers.count()) else {
                blocks += round;
                continue;
            };
            let mut cursor = self.writer.cursor.clone();
            let tables = place(&mut cursor, &geometry);
            let needed = (cursor.position() + free).next_multiple_of(round);
            if needed <= blocks {
                self.writer.cursor = cursor;
                for table in &tables {
                    self.used.push((table.block_bitmap, 1));
                    self.used.push((table.inode_bitmap, 1));
                    self.used.push((table.inode_table, geometry.table_blocks()));
                }
                return Ok((geometry, tables));
            }
            blocks = needed;
        }
        Err(FormatError::TooLarge {
            limit: limit * BLOCK as u64,
        })
    }

    /// Inodes 1 to 10.
    fn reserved_inodes(
        &mut self,
        root: [u8; INODE_SIZE as usize],
        geometry: &Geometry,
        journal: &FileData,
        growth_list: u64,
    ) -> Result<Vec<[u8; INODE_SIZE as usize]>, FormatError> {
        let mut reserved = vec![[0; INODE_SIZE as usize]; FIRST_INODE as usize - 1];
        let attributes = self.own_attributes();
        let mut inode = own_inode(inode::REGULAR, &attributes);
        self.map(Tree::ROOT, JOURNAL_INODE, journal, &mut inode)?;
        reserved[JOURNAL_INODE as usize - 1] = inode.encode(self.inode_seed(JOURNAL_INODE));
        let resize = self.resize_inode(geometry, growth_list)?;
        reserved[RESIZE_INODE as usize - 1] = resize;
        reserved[ROOT_INODE as usize - 1] = root;
        Ok(reserved)
    }

    /// The inode that owns the blocks kept for more descriptors: a list of them, each of which lists its
    /// places in the copies.
    fn resize_inode(
        &self,
        geometry: &Geometry,
        list: u64,
    ) -> Result<[u8; INODE_SIZE as usize], FormatError> {
        let per_block = BLOCK as u64 / 4;
        let mut all = vec![0; BLOCK];
        for index in 0..geometry.growth_blocks() {
            let at = 1 + geometry.descriptor_blocks() + index;
            let mut copies = vec![0; BLOCK];
            for (n, group) in geometry.backups().enumerate() {
                put32(&mut copies, n * 4, (at + group * GROUP) as u32);
            }
            self.write_block(at, &copies)?;
            put32(&mut all, (at - 1) as usize * 4, at as u32);
        }
        self.write_block(list, &all)?;
        let attributes = self.own_attributes();
        let mut inode = own_inode(inode::REGULAR, &attributes);
        inode.size = (per_block * per_block + per_block + 12) * BLOCK as u64;
        inode.blocks = 1 + geometry.growth_blocks() * (1 + geometry.backups().count() as u64);
        put32(&mut inode.body, 13 * 4, list as u32);
        Ok(inode.encode(self.inode_seed(RESIZE_INODE)))
    }

    fn write_tables(
        &self,
        geometry: &Geometry,
        tables: &[Tables],
        reserved: &[[u8; INODE_SIZE as usize]],
    ) -> Result<(), FormatError> {
        let all: Vec<&[u8; INODE_SIZE as usize]> = reserved.iter().chain(&self.inodes).collect();
        let per_group = geometry.inodes_per_group as usize;
        for (part, tables) in all.chunks(per_group).zip(tables) {
            let mut at = tables.inode_table * BLOCK as u64;
            for piece in part.chunks(4096) {
                let bytes: Vec<u8> = piece
                    .iter()
                    .flat_map(|inode| inode.iter().copied())
                    .collect();
                self.writer.file.write_all_at(&bytes, at)?;
                at += bytes.len() as u64;
            }
        }
        Ok(())
    }

    fn used_blocks(&self, geometry: &Geometry) -> UsedBlocks {
        let mut used = UsedBlocks::new(geometry);
        used.mark(0, RESERVED);
        for group in geometry.backups() {
            used.mark(group * GROUP, RESERVED);
        }
        for (start, count) in &self.used {
            used.mark(*start, *count);
        }
        used
    }

    /// Contents that are not in the tree become holes.
    fn give_back(&mut self, used: &UsedBlocks) -> Result<(), FormatError> {
        self.writer.flush()?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for (start, count) in used.holes_before(self.writer.cursor.position()) {
            let (at, length) = (start * BLOCK as u64, count * BLOCK as u64);
            match rustix::fs::fallocate(&self.writer.file, flags, at, length) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) => self.write_zeros(start, count)?,
                Err(error) => return Err(FormatError::Io(error.into())),
            }
        }
        Ok(())
    }

    fn write_zeros(&self, start: u64, count: u64) -> Result<(), FormatError> {
        let length = self.writer.file.metadata()?.len().div_ceil(BLOCK as u64);
        for block in start..(start + count).min(length) {
            self.write_block(block, &[0; BLOCK])?;
        }
        Ok(())
    }

    fn write_groups(
        &mut self,
        geometry: &Geometry,
        tables: &[Tables],
        used: &UsedBlocks,
        journal: &FileData,
    ) -> Result<(), FormatError> {
        let inodes = UsedInodes {
            count: self.numbers.count(),
        };
        let mut descriptors = Vec::new();
        let mut free_blocks = 0;
        for (group, tables) in tables.iter().enumerate() {
            let group = group as u64;
            let numbers =
                group * geometry.inodes_per_group..(group + 1) * geometry.inodes_per_group;
            let mine = |number: &&u32| numbers.contains(&(u64::from(**number) - 1));
            let directories = self.directories.iter().filter(mine).count() as u32;
            let encoded = groups::encode(
                geometry,
                group,
                tables,
                (used, &inodes),
                directories,
                self.seed,
            );
            if let Some(bits) = &encoded.block_bitmap {
                self.write_block(tables.block_bitmap, bits)?;
            }
            if let Some(bits) = &encoded.inode_bitmap {
                self.write_block(tables.inode_bitmap, bits)?;
            }
            descriptors.extend_from_slice(&encoded.descriptor);
            free_blocks += encoded.free_blocks;
        }
        let (journal_body, _) = extent::tree(&journal.extents, &[], 0);
        let counts = Counts {
            free_blocks,
            free_inodes: geometry.inodes() - inodes.count,
            journal_body,
            journal_size: journal.size,
        };
        for group in std::iter::once(0).chain(geometry.backups()) {
            let bytes = superblock::encode(geometry, &counts, self.options, group);
            let offset = if group == 0 {
                superblock::OFFSET as u64
            } else {
                0
            };
            let start = group * GROUP * BLOCK as u64;
            self.writer.file.write_all_at(&bytes, start + offset)?;
            self.writer
                .file
                .write_all_at(&descriptors, start + BLOCK as u64)?;
        }
        Ok(())
    }
}

fn own_inode(kind: u16, attributes: &Attributes) -> Inode<'_> {
    Inode {
        kind,
        attributes,
        links: 1,
        size: 0,
        blocks: 0,
        flags: 0,
        body: [0; 60],
        attribute_block: 0,
        in_inode: [0; xattr::IN_INODE],
    }
}

fn place(cursor: &mut Cursor, geometry: &Geometry) -> Vec<Tables> {
    let bitmaps: Vec<(u64, u64)> = (0..geometry.groups)
        .map(|_| (cursor.take(), cursor.take()))
        .collect();
    let table = |(block_bitmap, inode_bitmap)| Tables {
        block_bitmap,
        inode_bitmap,
        inode_table: cursor.take_together(geometry.table_blocks()),
    };
    bitmaps.into_iter().map(table).collect()
}
