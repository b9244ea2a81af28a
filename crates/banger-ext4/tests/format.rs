//! File systems as `e2fsck` and the kernel see them.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of a test are a test"
)]

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_ext4::{
    Attributes, Content, DataWriter, DeviceKind, FormatError, Formatted, FsOptions, Node, NodeId,
    Time, Tree, copy_contents, format,
};

/// A tree that is built name by name.
struct Builder {
    nodes: Vec<Node>,
    writer: DataWriter,
}

impl Builder {
    fn new(path: &Path) -> Self {
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(path);
        let root = Node {
            attributes: attributes(0o755),
            content: Content::Directory(vec![]),
        };
        Self {
            nodes: vec![root],
            writer: DataWriter::new(file.unwrap()),
        }
    }

    fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId) {
        let Content::Directory(entries) = &mut self.nodes[directory.0].content else {
            panic!("no directory");
        };
        entries.push((name.into(), node));
    }

    fn add(&mut self, directory: NodeId, name: &[u8], content: Content) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node {
            attributes: attributes(0o644),
            content,
        });
        self.link(directory, name, id);
        id
    }

    fn directory(&mut self, directory: NodeId, name: &str) -> NodeId {
        self.add(directory, name.as_bytes(), Content::Directory(vec![]))
    }

    fn file(&mut self, directory: NodeId, name: &str, bytes: &[u8]) -> NodeId {
        self.writer.write(bytes).unwrap();
        let data = self.writer.finish().unwrap();
        self.add(directory, name.as_bytes(), Content::File(data))
    }

    fn format(self) -> Result<Formatted, FormatError> {
        format(self.writer, &Tree { nodes: self.nodes }, &options())
    }
}

fn attributes(mode: u16) -> Attributes {
    Attributes {
        mode,
        mtime: Time {
            seconds: 1_600_000_000,
            nanoseconds: 5,
        },
        atime: Time {
            seconds: 1_600_000_000,
            nanoseconds: 5,
        },
        ..Attributes::default()
    }
}

fn options() -> FsOptions {
    FsOptions {
        label: "root".to_owned(),
        uuid: [7; 16],
        hash_seed: [9; 16],
        time: 1_700_000_000,
        free: 100 << 20,
        round: 64 << 20,
        journal_blocks: 1024,
    }
}

fn run(program: &str, args: &[&str], path: &Path) -> String {
    let mut command = Command::new(program);
    command
        .args(args)
        .arg(path)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {args:?}: {said}");
    said
}

fn check(path: &Path) {
    run("e2fsck", &["-fn"], path);
}

/// The file system, mounted for as long as this lives; `None` where this user may not.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED(mount): looking at it through the kernel needs root");
            return None;
        }
        let at = path.with_extension("mounted");
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,ro"]).args([path, &at]);
        assert!(mount.status().unwrap().success(), "mount failed");
        Some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().unwrap();
    }
}

#[test]
fn an_empty_tree_is_a_clean_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fs");
    let formatted = Builder::new(&path).format().unwrap();
    assert_eq!(formatted.size, 128 << 20);
    check(&path);
    assert!(
        fs::metadata(&path).unwrap().blocks() * 512 < 2 << 20,
        "it is sparse"
    );
}

#[test]
fn every_kind_of_file_is_what_it_was_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fs");
    let mut builder = Builder::new(&path);
    let sub = builder.directory(Tree::ROOT, "sub");
    let deep = builder.directory(sub, "deep");
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = builder.file(deep, "file", &content);
    builder.link(Tree::ROOT, b"again", file);
    builder.file(sub, "empty", b"");
    let mode = &mut builder.nodes[file.0].attributes;
    (mode.mode, mode.uid, mode.gid) = (0o4755, 3_000_000_000, 70_000);
    let capability = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    mode.xattrs = vec![
        (b"user.long".to_vec(), vec![b'x'; 3000]),
        (b"security.capability".to_vec(), capability.clone()),
        (b"user.short".to_vec(), b"1".to_vec()),
        (b"user.none".to_vec(), vec![]),
    ];
    for (name, length) in [("short", 59), ("long", 60), ("longest", 4095)] {
        let target = vec![b't'; length].into();
        builder.add(Tree::ROOT, name.as_bytes(), Content::Symlink(target));
    }
    builder.add(Tree::ROOT, b"pipe", Content::Fifo);
    for (name, kind, major, minor) in [
        ("null", DeviceKind::Character, 1, 3),
        ("disk", DeviceKind::Block, 259, 70_000),
    ] {
        let device = Content::Device { kind, major, minor };
        builder.add(Tree::ROOT, name.as_bytes(), device);
    }
    builder.add(Tree::ROOT, &[0xff; 255], Content::Fifo);
    builder.format().unwrap();
    check(&path);

    let Some(mounted) = Mounted::new(&path) else {
        return;
    };
    let at = |name: &str| mounted.0.join(name);
    let stat = fs::metadata(at("sub/deep/file")).unwrap();
    assert_eq!(fs::read(at("sub/deep/file")).unwrap(), content);
    assert_eq!(
        (stat.mode() & 0o7777, stat.uid(), stat.gid()),
        (0o4755, 3_000_000_000, 70_000)
    );
    assert_eq!(
        (stat.nlink(), stat.mtime(), stat.mtime_nsec()),
        (2, 1_600_000_000, 5)
    );
    assert_eq!(stat.ino(), fs::metadata(at("again")).unwrap().ino());
    let mut value = [0; 4096];
    for (name, expected) in [
        ("user.long", vec![b'x'; 3000]),
        ("security.capability", capability),
        ("user.short", b"1".to_vec()),
        ("user.none", vec![]),
    ] {
        let length = rustix::fs::getxattr(at("again"), name, &mut value[..]).unwrap();
        assert_eq!(value[..length], expected, "{name}");
    }
    assert_eq!(fs::metadata(at("sub")).unwrap().nlink(), 3);
    assert_eq!(
        fs::metadata(at("lost+found")).unwrap().mode() & 0o777,
        0o700
    );
    for (name, length) in [("short", 59), ("long", 60), ("longest", 4095)] {
        assert_eq!(fs::read_link(at(name)).unwrap().as_os_str().len(), length);
    }
    assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
    let disk = fs::metadata(at("disk")).unwrap();
    assert!(disk.file_type().is_block_device());
    assert_eq!(disk.rdev(), rustix::fs::makedev(259, 70_000));
    assert_eq!(fs::read_dir(&mounted.0).unwrap().count(), 10);
}

#[test]
fn a_hundred_thousand_names_are_found_through_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fs");
    let mut builder = Builder::new(&path);
    let many = builder.directory(Tree::ROOT, "many");
    let file = builder.file(Tree::ROOT, "one", b"content");
    let mut names = Vec::new();
    for n in 0..100_000_u32 {
        // Long names make an index of two levels.
        let name = format!("{n:x}-{}", "ä".repeat((n % 100) as usize));
        let content = Content::Symlink(b"to".as_slice().into());
        if n % 50_000 == 0 {
            builder.link(many, name.as_bytes(), file);
        } else {
            builder.add(many, name.as_bytes(), content);
        }
        names.push(name);
    }
    for n in 0..300 {
        builder.directory(many, &format!("directory-{n}"));
    }
    builder.format().unwrap();
    check(&path);
    let Some(mounted) = Mounted::new(&path) else {
        return;
    };
    for name in &names {
        assert!(
            mounted.0.join("many").join(name).symlink_metadata().is_ok(),
            "{name}"
        );
    }
    assert!(!mounted.0.join("many/absent").exists());
    assert_eq!(fs::metadata(mounted.0.join("many")).unwrap().nlink(), 302);
}

#[test]
fn holes_stay_holes_and_large_sizes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fs");
    let mut builder = Builder::new(&path);
    let writer = &mut builder.writer;
    for _ in 0..1000 {
        writer.write(b"x").unwrap();
        writer.skip(100_000).unwrap();
    }
    let data = writer.finish().unwrap();
    builder.add(Tree::ROOT, b"holes", Content::File(data));
    builder.writer.skip(5 << 30).unwrap();
    builder.writer.write(b"end").unwrap();
    let data = builder.writer.finish().unwrap();
    builder.add(Tree::ROOT, b"large", Content::File(data));
    builder.writer.skip(3 << 31).unwrap();
    let data = builder.writer.finish().unwrap();
    builder.add(Tree::ROOT, b"nothing", Content::File(data));
    let formatted = builder.format().unwrap();
    check(&path);
    assert!(formatted.size < 1 << 30);
    let Some(mounted) = Mounted::new(&path) else {
        return;
    };
    let holes = fs::read(mounted.0.join("holes")).unwrap();
    assert_eq!(holes.len(), 100_001_000);
    for (at, byte) in holes.iter().enumerate() {
        assert_eq!(*byte, if at % 100_001 == 0 { b'x' } else { 0 }, "at {at}");
    }
    let large = fs::metadata(mounted.0.join("large")).unwrap();
    assert_eq!((large.len(), large.blocks()), ((5 << 30) + 3, 8));
    assert_eq!(
        fs::metadata(mounted.0.join("nothing")).unwrap().len(),
        3 << 31
    );
}

#[test]
fn the_same_input_gives_the_same_bytes_and_what_is_not_used_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, with_garbage: bool| {
        let path = dir.path().join(name);
        let mut builder = Builder::new(&path);
        builder.file(Tree::ROOT, "kept", &vec![1; 3 << 20]);
        if with_garbage {
            builder.writer.write(&vec![2; 20 << 20]).unwrap();
            builder.writer.finish().unwrap();
        }
        builder.format().unwrap();
        check(&path);
        path
    };
    let (one, other, third) = (make("a", true), make("b", true), make("c", false));
    assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap());
    let room = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
    assert!(
        room(&one) < room(&third) + (1 << 20),
        "{} and {}",
        room(&one),
        room(&third)
    );
}

#[test]
fn it_can_be_grown_far_and_shrunk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fs");
    let mut builder = Builder::new(&path);
    for n in 0..500 {
        builder.file(Tree::ROOT, &format!("file-{n}"), &vec![n as u8; 20_000]);
    }
    builder.format().unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(64 << 30)
        .unwrap();
    run("resize2fs", &["-f"], &path);
    check(&path);
    run("resize2fs", &["-fM"], &path);
    check(&path);
}

#[test]
fn more_files_than_usual_get_their_inodes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fs");
    let mut builder = Builder::new(&path);
    for n in 0..60 {
        let sub = builder.directory(Tree::ROOT, &format!("sub-{n}"));
        for n in 0..1000 {
            builder.add(sub, format!("{n}").as_bytes(), Content::Fifo);
        }
    }
    builder.format().unwrap();
    check(&path);
}

#[test]
fn contents_can_be_copied_out_of_a_finished_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = Builder::new(&dir.path().join("from"));
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 999) as u8).collect();
    let mut with_hole = content.clone();
    with_hole.resize(9_000_000, 0);
    let nodes = [("a", &content), ("b", &with_hole)]
        .map(|(name, bytes)| builder.file(Tree::ROOT, name, bytes));
    let data = nodes.map(|id| match &builder.nodes[id.0].content {
        Content::File(data) => data.clone(),
        _ => panic!("no file"),
    });
    let from = builder.format().unwrap().file;
    let path = dir.path().join("to");
    let mut copy = Builder::new(&path);
    for (name, data) in ["a", "b"].into_iter().zip(&data) {
        let data = copy_contents(&from, data, &mut copy.writer).unwrap();
        copy.add(Tree::ROOT, name.as_bytes(), Content::File(data));
    }
    copy.format().unwrap();
    check(&path);
    let Some(mounted) = Mounted::new(&path) else {
        return;
    };
    assert!(fs::read(mounted.0.join("a")).unwrap() == content);
    assert!(fs::read(mounted.0.join("b")).unwrap() == with_hole);
}

#[test]
fn what_ext4_cannot_hold_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = Builder::new(&dir.path().join("links"));
    let file = builder.file(Tree::ROOT, "f", b"");
    for n in 0..65_000 {
        builder.link(Tree::ROOT, format!("{n}").as_bytes(), file);
    }
    assert!(matches!(
        builder.format(),
        Err(FormatError::TooManyLinks { node, links: 65_001 }) if node == file
    ));
    let mut builder = Builder::new(&dir.path().join("xattrs"));
    let file = builder.file(Tree::ROOT, "f", b"");
    builder.nodes[file.0].attributes.xattrs = vec![(b"user.a".to_vec(), vec![1; 5000])];
    assert!(
        matches!(builder.format(), Err(FormatError::AttributesTooLarge { node, .. }) if node == file)
    );
}
