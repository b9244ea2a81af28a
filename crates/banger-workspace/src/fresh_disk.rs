//! A work disk's tree, as records of files come.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::time::Duration;

use banger_ext4::{
    Attributes, Content, DataWriter, Names, Node, NodeId, ReadTreeError, Time, Tree, read_tree,
};
use banger_guest_proto::{Entry, EntryKind, FileTime, Record, RelPath};

/// Of folders that nothing says more of.
const FOLDER_MODE: u16 = 0o755;

/// A file whose content comes.
struct Open {
    path: RelPath,
    attributes: Attributes,
    /// As large as this it was announced; what is not known beforehand has 0.
    announced: u64,
    came: u64,
}

/// A file system that is being filled: all is root's, as what the agent writes.
pub(crate) struct FreshDisk {
    tree: Tree,
    writer: DataWriter,
    uuid: [u8; 16],
    /// All that has come, below the folder that it goes into.
    known: HashMap<RelPath, NodeId>,
    folder: NodeId,
    now: Time,
    open: Option<Open>,
}

impl FreshDisk {
    /// Begins with what a seed holds; `None` when it has something at the path already.
    pub(crate) fn of_seed(
        seed: File,
        to: File,
        path: &RelPath,
        now: Duration,
    ) -> Result<Option<Self>, ReadTreeError> {
        let mut writer = DataWriter::new(to);
        let read = read_tree(seed, "/", &mut writer)?;
        Ok(Self::with(read.tree, writer, read.uuid, path, now))
    }

    /// Begins with nothing.
    pub(crate) fn empty(to: File, path: &RelPath, now: Duration) -> Option<Self> {
        let mut uuid = [0; 16];
        // Without entropy it has one that others may have, too, which harms nobody.
        let _ = rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty());
        // Version 4, variant 1 (RFC 9562).
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Self::with(Tree::empty(0o700), DataWriter::new(to), uuid, path, now)
    }

    fn with(
        tree: Tree,
        writer: DataWriter,
        uuid: [u8; 16],
        path: &RelPath,
        now: Duration,
    ) -> Option<Self> {
        let now = Time {
            seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: now.subsec_nanos(),
        };
        let mut disk = Self {
            tree,
            writer,
            uuid,
            known: HashMap::new(),
            folder: Tree::ROOT,
            now,
            open: None,
        };
        let mut at = Tree::ROOT;
        for name in path.as_bytes().split(|byte| *byte == b'/') {
            if disk.names(at)?.iter().any(|(known, _)| **known == *name) {
                return None;
            }
            at = disk.add(at, name, disk.of_folder())?;
        }
        disk.folder = at;
        Some(disk)
    }

    pub(crate) fn into_parts(self) -> (DataWriter, Tree, [u8; 16]) {
        (self.writer, self.tree, self.uuid)
    }

    fn of_folder(&self) -> Node {
        Node {
            attributes: Attributes {
                mode: FOLDER_MODE,
                mtime: self.now,
                ..Attributes::default()
            },
            content: Content::Directory(vec![]),
        }
    }

    fn names(&mut self, folder: NodeId) -> Option<&mut Names> {
        match &mut self.tree.nodes[folder.0].content {
            Content::Directory(names) => Some(names),
            _ => None,
        }
    }

    /// Puts a node into a folder; `None` where that is none.
    fn add(&mut self, folder: NodeId, name: &[u8], node: Node) -> Option<NodeId> {
        let id = NodeId(self.tree.nodes.len());
        self.names(folder)?.push((name.into(), id));
        self.tree.nodes.push(node);
        Some(id)
    }

    /// The folder that a path stands in, with those that lead to it.
    fn parent(&mut self, path: &RelPath) -> io::Result<NodeId> {
        let Some(Ok(folder)) = path.split().0.map(RelPath::new) else {
            return Ok(self.folder);
        };
        if let Some(known) = self.known.get(&folder) {
            return Ok(*known);
        }
        let within = self.parent(&folder)?;
        let made = self.add(within, folder.split().1, self.of_folder());
        let made = made.ok_or_else(|| odd(path, "a file stands where a folder belongs"))?;
        self.known.insert(folder, made);
        Ok(made)
    }

    /// Gives a node a name; what had it before has none then.
    fn put(&mut self, path: RelPath, node: Node) -> io::Result<()> {
        let id = NodeId(self.tree.nodes.len());
        self.tree.nodes.push(node);
        self.name(path, id)
    }

    fn name(&mut self, path: RelPath, id: NodeId) -> io::Result<()> {
        let folder = self.parent(&path)?;
        let is_new = !self.known.contains_key(&path);
        let name = path.split().1;
        let names = self.names(folder);
        let names = names.ok_or_else(|| odd(&path, "a file stands where a folder belongs"))?;
        match is_new {
            true => names.push((name.into(), id)),
            false => {
                let mut names = names.iter_mut();
                if let Some(known) = names.find(|(known, _)| **known == *name) {
                    known.1 = id;
                }
            }
        }
        self.known.insert(path, id);
        Ok(())
    }

    /// Takes a record.
    ///
    /// # Errors
    /// It cannot be written, or has no place here.
    pub(crate) fn take(&mut self, record: Record<'_>) -> io::Result<()> {
        match record {
            Record::Entry(entry) => {
                self.close()?;
                self.entry(entry)
            }
            Record::Data(bytes) => {
                self.came(bytes.len() as u64)?;
                self.writer.write(bytes)
            }
            Record::Hole(bytes) => {
                self.came(bytes)?;
                self.writer.skip(bytes)
            }
            Record::Remove(_) | Record::Want(_) | Record::Control(_) | Record::End => {
                let what = "a record that has no place in a fresh disk";
                Err(io::Error::new(io::ErrorKind::InvalidData, what))
            }
        }
    }

    fn came(&mut self, bytes: u64) -> io::Result<()> {
        let open = self.open.as_mut();
        let open = open.ok_or(io::ErrorKind::InvalidData)?;
        open.came = open.came.saturating_add(bytes);
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> io::Result<()> {
        let attributes = Attributes {
            mode: entry.mode & 0o777,
            mtime: time(entry.mtime),
            ..Attributes::default()
        };
        let path = entry.path;
        let content = match entry.kind {
            EntryKind::File { size, .. } => {
                self.open = Some(Open {
                    path,
                    attributes,
                    announced: size,
                    came: 0,
                });
                return Ok(());
            }
            EntryKind::Folder => {
                let known = self.known.get(&path);
                let known = known.map(|id| &mut self.tree.nodes[id.0]);
                match known.filter(|node| matches!(node.content, Content::Directory(_))) {
                    // It was made as something in it came, or comes again.
                    Some(node) => {
                        node.attributes = attributes;
                        return Ok(());
                    }
                    None => Content::Directory(vec![]),
                }
            }
            EntryKind::Symlink(target) => Content::Symlink(target.into()),
            EntryKind::HardLink(first) => {
                let first = self.known.get(&first).copied();
                let first = first.ok_or_else(|| odd(&path, "a name of what did not come"))?;
                return self.name(path, first);
            }
            EntryKind::Special | EntryKind::Missing => return Err(odd(&path, "it is no file")),
        };
        let node = Node {
            attributes,
            content,
        };
        self.put(path, node)
    }

    /// Ends the file that was coming. One that is shorter than it was announced has no name, and takes no room.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let data = self.writer.finish()?;
        if open.came < open.announced {
            return Ok(());
        }
        let node = Node {
            attributes: open.attributes,
            content: Content::File(data),
        };
        self.put(open.path, node)
    }
}

fn time(time: FileTime) -> Time {
    Time {
        seconds: time.seconds,
        nanoseconds: time.nanos,
    }
}

fn odd(path: &RelPath, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {what}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn entry(at: &str, kind: EntryKind) -> Record<'static> {
        Record::Entry(Entry {
            path: path(at),
            kind,
            mode: 0o644,
            mtime: FileTime::default(),
        })
    }

    fn file(at: &str, size: u64) -> Record<'static> {
        let linked = false;
        entry(at, EntryKind::File { size, linked })
    }

    fn disk() -> FreshDisk {
        let to = tempfile::tempfile().unwrap();
        FreshDisk::empty(to, &path("a/repo"), Duration::from_secs(1)).unwrap()
    }

    fn names(disk: &FreshDisk, folder: NodeId) -> Vec<String> {
        let Content::Directory(names) = &disk.tree.node(folder).content else {
            panic!("{folder:?} is no folder");
        };
        let names = names.iter();
        names
            .map(|(name, _)| String::from_utf8(name.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn what_is_cut_short_has_no_name_and_what_comes_again_replaces() {
        let mut disk = disk();
        for record in [
            file("short", 5),
            Record::Data(b"four"),
            file("of no size before", 0),
            Record::Data(b"content"),
            file("x/twice", 3),
            Record::Data(b"one"),
            entry("x/name", EntryKind::HardLink(path("x/twice"))),
            file("x/twice", 3),
            Record::Data(b"two"),
            entry("x", EntryKind::Folder),
            file("becomes/file", 0),
            file("hole", 4 << 20),
            Record::Hole((4 << 20) - 1),
            Record::Data(b"e"),
        ] {
            disk.take(record).unwrap();
        }
        disk.close().unwrap();
        assert_eq!(
            names(&disk, disk.folder),
            ["of no size before", "x", "becomes", "hole"]
        );
        let x = disk.known[&path("x")];
        assert_eq!(names(&disk, x), ["twice", "name"]);
        assert_ne!(disk.known[&path("x/twice")], disk.known[&path("x/name")]);
        let (writer, tree, uuid) = disk.into_parts();
        let options = banger_ext4::FsOptions::of_work_seed(uuid, uuid, 1);
        let mut made = banger_ext4::format(writer, &tree, &options).unwrap().file;
        let mut bytes = vec![];
        made.rewind().unwrap();
        made.read_to_end(&mut bytes).unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(has(b"content") && has(b"two"));
        assert!(!has(b"four"), "its room is given back");
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let odd: [&[Record<'_>]; 6] = [
            &[Record::Data(b"of nothing")],
            &[Record::Hole(1)],
            &[Record::Remove(path("x"))],
            &[entry("x", EntryKind::HardLink(path("y")))],
            &[entry("x", EntryKind::Special)],
            &[file("x", 0), file("x/y", 0), Record::Hole(0), file("z", 0)],
        ];
        for records in odd {
            let mut disk = disk();
            let mut taken = records.iter().map(|record| match record {
                Record::Data(bytes) => disk.take(Record::Data(bytes)),
                Record::Hole(bytes) => disk.take(Record::Hole(*bytes)),
                Record::Remove(path) => disk.take(Record::Remove(path.clone())),
                Record::Entry(entry) => disk.take(Record::Entry(entry.clone())),
                _ => Ok(()),
            });
            assert!(taken.any(|taken| taken.is_err()), "{records:?}");
        }
    }
}
