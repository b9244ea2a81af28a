//! Copies between the host's client and the agent: real files, over a socket pair in place of vsock.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod faults;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};

use banger_files::{Destination, Policy, Receiver, source};
use banger_guest::files::{TransferError, get, get_stream, put};
use banger_guest_proto::{
    AgentErrorCode, AgentMessage, Entry, EntryKind, FileTime, FilesDone, GetFiles, Hello, PutFiles,
    RecordWriter, RelPath, WirePath,
};

struct Agent(Child);

impl Agent {
    fn start() -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_banger-vsock-agent"))
            .arg("serve")
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        (Self(child), ours)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wire(path: &Path) -> WirePath {
    WirePath(path.as_os_str().as_bytes().to_vec())
}

fn put_request(target: WirePath) -> PutFiles {
    PutFiles {
        target,
        into: false,
        file: false,
        exact: false,
    }
}

/// Copies a file or folder in.
fn copy_in(from: &Path, to: &Path) -> Result<(FilesDone, FilesDone), TransferError> {
    copy_in_watched(from, to, &|_, _| {})
}

/// The same, telling of the bytes that go, and over what.
fn copy_in_watched(
    from: &Path,
    to: &Path,
    progress: &dyn Fn(&UnixStream, u64),
) -> Result<(FilesDone, FilesDone), TransferError> {
    let (_agent, stream) = Agent::start();
    let (folder, at, name) = source(from).unwrap();
    let name = RelPath::new(name).unwrap();
    let told = |count| progress(&stream, count);
    put(&stream, put_request(wire(to)), &told, |sender| {
        Ok(sender.send(folder.as_fd(), &at, &name)?)
    })
}

/// Copies a file or folder out.
fn copy_out(from: &Path, to: &Path) -> Result<(FilesDone, FilesDone), TransferError> {
    copy_out_watched(from, to, &|_, _| {})
}

/// The same, telling of the bytes that come, and over what.
fn copy_out_watched(
    from: &Path,
    to: &Path,
    progress: &dyn Fn(&UnixStream, u64),
) -> Result<(FilesDone, FilesDone), TransferError> {
    let (_agent, stream) = Agent::start();
    let request = GetFiles {
        sources: vec![wire(from)],
    };
    let told = |count| progress(&stream, count);
    get(&stream, request, &told, receiver(from, to))
}

fn receiver(from: &Path, to: &Path) -> Receiver {
    let destination = Destination::find(to, false, false).unwrap();
    let asked = from.file_name().unwrap().as_bytes().to_vec();
    let here = destination.name.clone().unwrap_or_else(|| asked.clone());
    let policy = Policy {
        first_names: Some(HashMap::from([(asked, here)])),
        ..Policy::default()
    };
    Receiver::new(destination.base, policy)
}

/// All of a tree: paths, kinds, modes, times, contents.
fn listing(root: &Path) -> Vec<String> {
    let mut lines = vec![];
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let what = if meta.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if meta.is_dir() {
            waiting.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            format!(
                "folder {:o} {}.{}",
                meta.mode(),
                meta.mtime(),
                meta.mtime_nsec()
            )
        } else {
            let content = fs::read(&path).unwrap();
            let sum: u64 = content
                .iter()
                .zip(1_u64..)
                .map(|(byte, at)| u64::from(*byte).wrapping_mul(at))
                .fold(0, u64::wrapping_add);
            format!(
                "file {:o} {}.{} {} {sum}",
                meta.mode(),
                meta.mtime(),
                meta.mtime_nsec(),
                content.len()
            )
        };
        lines.push(format!("{name:?} {what}"));
    }
    lines.sort();
    lines
}

/// A tree with something of everything.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("deep/er")).unwrap();
    fs::write(at.join("small"), "hello").unwrap();
    fs::write(at.join("empty"), "").unwrap();
    let large: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(at.join("deep/large"), &large).unwrap();
    fs::write(at.join("deep/er/run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("deep/er/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at.join("secret"), "s").unwrap();
    fs::set_permissions(at.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(at.join("small"), at.join("deep/second-name")).unwrap();
    symlink("small", at.join("link")).unwrap();
    symlink("/nowhere/at all", at.join("dangling")).unwrap();
    symlink("deep", at.join("folder-link")).unwrap();
    fs::write(
        at.join(OsStr::from_bytes(b"line\nbreak \xff\xfe.txt")),
        "odd",
    )
    .unwrap();
    let sparse = fs::File::create(at.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"in the middle", 32 << 20).unwrap();
    drop(sparse);
    fs::create_dir(at.join("closed")).unwrap();
    fs::write(at.join("closed/inner"), "x").unwrap();
    fs::set_permissions(at.join("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    for name in ["small", "deep/large", "deep/er"] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_789);
        let file = fs::File::open(at.join(name)).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(time))
            .unwrap();
    }
}

#[test]
fn a_tree_arrives_as_it_was_in_both_directions() {
    let place = tempfile::tempdir().unwrap();
    let (from, there, back) = (
        place.path().join("from"),
        place.path().join("there"),
        place.path().join("back"),
    );
    tree(&from);
    let (left_out, done) = copy_in(&from, &there).unwrap();
    assert!(
        left_out.is_whole() && done.is_whole(),
        "{left_out:?} {done:?}"
    );
    assert_eq!(listing(&there), listing(&from));
    let (left_out, done) = copy_out(&there, &back).unwrap();
    assert!(
        left_out.is_whole() && done.is_whole(),
        "{left_out:?} {done:?}"
    );
    assert_eq!(listing(&back), listing(&from));
    for copy in [&there, &back] {
        let sparse = fs::metadata(copy.join("sparse")).unwrap();
        assert!(
            sparse.blocks() * 512 < 1 << 20,
            "holes are kept: {} blocks",
            sparse.blocks()
        );
        let numbers =
            ["small", "deep/second-name"].map(|name| fs::metadata(copy.join(name)).unwrap().ino());
        assert_eq!(numbers[0], numbers[1], "two names of one file");
    }
    // Again, over what is there: the same, and into a folder: beside it.
    copy_in(&from, &place.path().join("there/deep")).unwrap();
    assert_eq!(listing(&there.join("deep/from")), listing(&from));
}

#[test]
fn files_go_where_cp_would_put_them() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    fs::write(at("a"), "new").unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("old"), "something longer than new").unwrap();
    symlink("old", at("to-old")).unwrap();
    copy_in(&at("a"), &at("folder")).unwrap();
    copy_in(&at("a"), &at("folder/b")).unwrap();
    copy_in(&at("a"), &at("to-old")).unwrap();
    assert_eq!(fs::read(at("folder/a")).unwrap(), b"new");
    assert_eq!(fs::read(at("folder/b")).unwrap(), b"new");
    assert_eq!(fs::read(at("old")).unwrap(), b"new", "through the link");
    assert!(fs::symlink_metadata(at("to-old")).unwrap().is_symlink());
    for bad in ["no/such", "a/b", "none/"] {
        let error = copy_in(&at("a"), &place.path().join(bad)).unwrap_err();
        assert!(
            matches!(error, TransferError::Refused(_)),
            "{bad}: {error:?}"
        );
    }
    // Nothing but files is replaced by a file.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let (_, done) = copy_in(&at("a"), &at("pipe")).unwrap();
    assert_eq!(done.problems.len(), 1, "{done:?}");
    let missing = copy_out(&at("none"), &at("folder")).unwrap_err();
    assert!(
        matches!(&missing, TransferError::Refused(error) if error.code == AgentErrorCode::FileNotFound),
        "{missing:?}"
    );
}

#[test]
fn what_cannot_be_read_is_left_out_and_told() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("good"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let (left_out, done) = copy_in(&from, &place.path().join("to")).unwrap();
    assert_eq!(left_out.problems.len(), 1);
    assert_eq!(left_out.problems[0].path, "from/socket");
    assert_eq!(done.files, 2);
}

#[test]
fn a_stream_is_one_file() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("f");
    let sparse = fs::File::create(&file).unwrap();
    sparse.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", (1 << 20) - 3).unwrap();
    let stream_of = |path: &Path| {
        let (_agent, stream) = Agent::start();
        let mut bytes = vec![];
        let request = GetFiles {
            sources: vec![wire(path)],
        };
        get_stream(&stream, request, &|_| {}, &mut bytes).map(|_| bytes)
    };
    assert_eq!(stream_of(&file).unwrap(), fs::read(&file).unwrap());
    let what_claims_no_size = stream_of(Path::new("/proc/self/status")).unwrap();
    assert!(what_claims_no_size.starts_with(b"Name:"));
    assert!(matches!(
        stream_of(place.path()),
        Err(TransferError::NotAFile)
    ));
    let (_agent, stream) = Agent::start();
    let request = PutFiles {
        file: true,
        ..put_request(wire(place.path()))
    };
    let refused = put(&stream, request, &|_| {}, |_| Ok(())).unwrap_err();
    assert!(matches!(refused, TransferError::Refused(_)), "{refused:?}");
}

/// A guest that answers a request for `/wanted` with these records.
fn hostile(
    send: impl FnOnce(&mut RecordWriter<&UnixStream>) + Send,
    to: &Path,
) -> Result<(FilesDone, FilesDone), TransferError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut out = RecordWriter::new(&theirs);
            out.control(&AgentMessage::Hello(Hello::ours())).unwrap();
            out.flush().unwrap();
            send(&mut out);
            // The client may have hung up.
            let _ = out
                .end()
                .and_then(|()| out.control(&AgentMessage::FilesDone(FilesDone::default())));
            let _ = out.flush();
            let mut rest = vec![];
            let _ = theirs.shutdown(std::net::Shutdown::Write);
            let _ = (&theirs).read_to_end(&mut rest);
        });
        let request = GetFiles {
            sources: vec![WirePath(b"/wanted".to_vec())],
        };
        let result = get(&ours, request, &|_| {}, receiver(Path::new("/wanted"), to));
        drop(ours);
        result
    })
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: RelPath::new(path).unwrap(),
        kind,
        mode: 0o4777,
        mtime: FileTime::default(),
    }
}

const FILE: EntryKind = EntryKind::File {
    size: 3,
    linked: true,
};

#[test]
fn a_hostile_guest_writes_nothing_outside_of_the_destination() {
    let place = tempfile::tempdir().unwrap();
    let outside = place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("mine"), "untouched").unwrap();
    let to = place.path().join("to");
    fs::create_dir(&to).unwrap();
    symlink(&outside, to.join("old-link")).unwrap();
    let before = listing(&outside);
    let out = outside.to_str().unwrap().as_bytes().to_vec();

    // Through a link that it sent itself, to a folder and to a file.
    let (_, done) = hostile(
        |w| {
            w.entry(&entry("wanted", EntryKind::Folder)).unwrap();
            w.entry(&entry("wanted/l", EntryKind::Symlink(out.clone())))
                .unwrap();
            w.entry(&entry("wanted/l/new", FILE)).unwrap();
            w.data(b"bad").unwrap();
            w.entry(&entry("wanted/l/folder", EntryKind::Folder))
                .unwrap();
            w.entry(&entry("wanted/l", EntryKind::Folder)).unwrap();
            let mine = [out.as_slice(), b"/mine"].concat();
            w.entry(&entry("wanted/m", EntryKind::Symlink(mine)))
                .unwrap();
            w.entry(&entry("wanted/m", FILE)).unwrap();
            w.data(b"bad").unwrap();
            w.entry(&entry(
                "wanted/h",
                EntryKind::HardLink(RelPath::new("wanted/l/mine").unwrap()),
            ))
            .unwrap();
            w.entry(&entry("wanted/set", FILE)).unwrap();
            w.data(b"uid").unwrap();
        },
        &to,
    )
    .unwrap();
    assert_eq!(done.problems.len(), 4, "{done:?}");
    assert_eq!(listing(&outside), before);
    assert_eq!(
        fs::read(to.join("wanted/m")).unwrap(),
        b"bad",
        "the link was replaced, not followed"
    );
    let set = fs::metadata(to.join("wanted/set")).unwrap();
    assert_eq!(set.mode() & 0o7777, 0o777, "no setuid from a guest");

    // A name that was not asked for; among them one that leads through a link of the user's own.
    for name in ["old-link/new", "other", ".bashrc"] {
        let error = hostile(|w| w.entry(&entry(name, FILE)).unwrap(), &to).unwrap_err();
        assert!(matches!(error, TransferError::Receive(_)), "{error:?}");
    }
    // Records that have no place in an answer.
    let path = RelPath::new("wanted/set").unwrap();
    assert!(hostile(|w| w.remove(&path).unwrap(), &to).is_err());
    assert!(hostile(|w| w.data(b"bad").unwrap(), &to).is_err());
    assert!(hostile(|w| w.hole(1 << 40).unwrap(), &to).is_err());
    assert!(to.join("wanted/set").exists());
    // Raw bytes of a path that leads out: no entry at all.
    for name in ["../x", "/etc/x", "wanted/../../x"] {
        let error = hostile(
            |w| {
                let mut payload = vec![6, 0];
                payload.extend_from_slice(&[0; 22]);
                payload.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
                payload.extend_from_slice(name.as_bytes());
                payload.extend_from_slice(&[0, 0]);
                payload[1] = 0;
                let length = u32::try_from(payload.len()).unwrap();
                w.flush().unwrap();
                let mut raw = *w.get_ref();
                raw.write_all(&length.to_le_bytes()).unwrap();
                raw.write_all(&payload).unwrap();
            },
            &to,
        )
        .unwrap_err();
        assert!(
            matches!(error, TransferError::Record(_)),
            "{name}: {error:?}"
        );
    }
    assert_eq!(listing(&outside), before);
    assert!(!place.path().join("x").exists());
}

#[test]
fn an_older_agent_is_told_apart() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let old = std::thread::spawn(move || {
        let mut out = RecordWriter::new(&theirs);
        let hello = Hello {
            generation: 1,
            version: "0.0.9".to_owned(),
        };
        out.control(&AgentMessage::Hello(hello)).unwrap();
        out.flush().unwrap();
        let mut rest = vec![];
        let _ = (&theirs).read_to_end(&mut rest);
        rest
    });
    let error = put(&ours, put_request(WirePath(b"x".to_vec())), &|_| {}, |_| {
        Ok(())
    })
    .unwrap_err();
    assert!(matches!(error, TransferError::OldAgent { .. }), "{error:?}");
    drop(ours);
    let sent = String::from_utf8_lossy(&old.join().unwrap()).into_owned();
    assert!(!sent.contains("put_files"), "{sent}");
}

#[test]
fn exact_makes_room_and_removes() {
    let place = tempfile::tempdir().unwrap();
    let (root, outside) = (place.path().join("a/b/repo"), place.path().join("outside"));
    fs::create_dir_all(root.join("was-folder/inner")).unwrap();
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("kept"), "x").unwrap();
    fs::write(root.join("was-file"), "x").unwrap();
    symlink(&outside, root.join("was-link")).unwrap();
    fs::create_dir_all(root.join("gone/with")).unwrap();
    fs::write(root.join("gone/with/it"), "x").unwrap();
    fs::write(root.join("stays"), "x").unwrap();
    let (_agent, stream) = Agent::start();
    let request = PutFiles {
        exact: true,
        ..put_request(wire(&root))
    };
    let (_, done) = put(&stream, request, &|_| {}, |sender| {
        let out = sender.out();
        let path = |text: &str| RelPath::new(text).unwrap();
        out.remove(&path("gone/with/it")).unwrap();
        out.remove(&path("was-link/kept")).unwrap();
        out.remove(&path("never-there")).unwrap();
        for name in ["was-folder", "was-file/in", "was-link/in", "new/deep/file"] {
            out.entry(&entry(name, FILE)).unwrap();
            out.data(b"new").unwrap();
        }
        Ok(())
    })
    .unwrap();
    assert!(done.is_whole(), "{done:?}");
    for name in ["was-folder", "was-file/in", "was-link/in", "new/deep/file"] {
        assert_eq!(fs::read(root.join(name)).unwrap(), b"new", "{name}");
    }
    assert!(!root.join("gone").exists(), "empty folders go too");
    assert!(root.join("stays").exists());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}
