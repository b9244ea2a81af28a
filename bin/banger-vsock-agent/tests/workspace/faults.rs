//! What goes wrong on the way: files that change while they are read, connections that break, disks that are full.

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use banger_guest::files::TransferError;
use banger_guest_proto::{AgentErrorCode, AgentMessage, Hello, RecordWriter};
use banger_workspace::{
    CheckoutError, Collected, GuestRepo, How, Options, PrepareError, PullError, fetch, prepare,
    repository,
};

use crate::place::{FORCED, Place, SmallDisk, git, write};

/// Text that takes a while on its way.
fn long() -> String {
    "x".repeat(8_000_000)
}

/// Bytes that nothing compresses.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A place in which a large file comes first, and some that something may happen to while it goes.
fn with_a_large_file() -> Place {
    let place = Place::filled();
    let host = place.host();
    write(&host, "0-large", &long());
    for name in ["z-folder", "z-gone", "z-gone-and-back", "z-pipe"] {
        write(&host, name, name);
    }
    write(&host, "z-shorter", &long());
    write(&host, "z-written", &long());
    git(&host, &["add", "-A"]);
    git(&host, &["commit", "-qm", "large"]);
    place
}

/// Tells of the first bytes beyond so many.
struct After<'a> {
    bytes: Cell<u64>,
    then: Cell<Option<Box<dyn FnOnce() + 'a>>>,
}

impl<'a> After<'a> {
    fn new(bytes: u64, then: impl FnOnce() + 'a) -> Self {
        Self {
            bytes: Cell::new(bytes),
            then: Cell::new(Some(Box::new(then))),
        }
    }

    fn passed(&self, count: u64) {
        self.bytes.set(self.bytes.get().saturating_sub(count));
        if self.bytes.get() == 0
            && let Some(then) = self.then.take()
        {
            then();
        }
    }
}

#[test]
fn what_changes_while_it_is_sent_is_told_and_comes_the_next_time() {
    let place = with_a_large_file();
    let (host, guest) = (place.host(), place.guest());
    let aside = place.folder.path().join("aside");
    let meddle = After::new(1_000_000, || {
        for name in ["z-gone", "z-folder", "z-pipe"] {
            fs::remove_file(host.join(name)).unwrap();
        }
        fs::rename(host.join("z-gone-and-back"), &aside).unwrap();
        // Nothing in it was ever listed, and it may be ignored.
        write(&host, "z-folder/secret", "never sent");
        let fifo = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, host.join("z-pipe"), fifo, mode, 0).unwrap();
    });
    let first = place.put_watched(&Options::default(), How::default(), &|count| {
        meddle.passed(count);
    });
    let notes = first.unwrap().notes;
    for what in [
        "not copied: z-folder: it has become a folder",
        "not copied: z-gone: No such file or directory (os error 2)",
        "not copied: z-gone-and-back: No such file or directory (os error 2)",
        "not copied: z-pipe: neither file, folder nor link",
    ] {
        assert!(notes.iter().any(|note| note == what), "{what}: {notes:?}");
        let name = what.split(": ").nth(1).unwrap();
        assert!(fs::symlink_metadata(guest.join(name)).is_err(), "{name}");
    }
    // As if it had never been away: time and all. It was not sent, so it is now.
    fs::rename(&aside, host.join("z-gone-and-back")).unwrap();
    fs::remove_file(host.join("z-pipe")).unwrap();
    fs::remove_dir_all(host.join("z-folder")).unwrap();
    for name in ["z-folder", "z-gone", "z-pipe"] {
        write(&host, name, "back\n");
    }
    let second = place.ok();
    let sent: Vec<&str> = second.sent.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(sent, ["z-folder", "z-gone", "z-gone-and-back", "z-pipe"]);
    assert_eq!(second.notes, Vec::<String>::new());
    place.same();
    assert_eq!(place.ok().bytes, 0);
}

#[test]
fn half_a_file_is_never_taken_for_a_whole_one() {
    let place = with_a_large_file();
    let (host, guest) = (place.host(), place.guest());
    place.ok();
    for name in ["z-shorter", "z-written"] {
        write(&host, name, &"y".repeat(8_000_000));
    }
    // Both in the middle of being read: what is ahead in the pipes is less than half of one.
    let cut = After::new(3_000_000, || {
        let file = fs::File::options().write(true).open(host.join("z-shorter"));
        file.unwrap().set_len(100).unwrap();
    });
    let written = After::new(6_000_000, || {
        let file = fs::File::options().write(true).open(host.join("z-written"));
        let mut file = file.unwrap();
        file.write_all(b"other").unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        file.set_modified(later).unwrap();
    });
    let told = place.put_watched(&Options::default(), How::default(), &|count| {
        cut.passed(count);
        written.passed(count);
    });
    assert_eq!(
        told.unwrap().notes,
        [
            "not copied: z-shorter: it became shorter while it was read",
            "copied, but perhaps not as it was at one moment: z-written: it changed while it was read",
        ]
    );
    let before = fs::read_to_string(guest.join("z-shorter")).unwrap();
    assert!(before == long(), "the file that was there has gone");
    // None of it is taken for the guest's own work.
    let again = place.ok();
    let sent: Vec<&str> = again.sent.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(sent, ["z-shorter", "z-written"]);
    place.same();
}

#[test]
fn several_names_of_one_file_are_files_the_next_time() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    write(&host, "one", "1\n");
    fs::hard_link(host.join("one"), host.join("two")).unwrap();
    git(&host, &["add", "-A"]);
    git(&host, &["commit", "-qm", "two names"]);
    place.ok();
    place.same();
    assert_eq!(place.unpulled(), (0, 0, vec![]));
    write(&host, "one", "changed\n");
    place.ok();
    place.same();
    let read = fs::read_to_string(guest.join("two")).unwrap();
    assert_eq!(read, "changed\n");
}

#[test]
fn what_the_guest_cannot_write_is_told_and_comes_the_next_time() {
    let place = Place::filled();
    place.ok();
    let (host, guest) = (place.host(), place.guest());
    let file = guest.join("deep/er/b.txt");
    let lock = |flag| {
        let mut command = std::process::Command::new("chattr");
        let status = command
            .arg(flag)
            .arg(&file)
            .stderr(std::process::Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !lock("+i") {
        println!("SKIPPED(a file that cannot be replaced): no chattr, or not here");
        return;
    }
    write(&host, "a.txt", "later\n");
    write(&host, "deep/er/b.txt", "later\n");
    let told = place.put(&Options::default(), How::default());
    assert!(lock("-i"));
    let notes = told.unwrap().notes;
    assert_eq!(
        notes,
        ["not copied: deep/er/b.txt: Operation not permitted (os error 1)"]
    );
    let again = place.ok();
    let sent: Vec<&str> = again.sent.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(sent, ["deep/er/b.txt"]);
    place.same();
}

/// The connection that files go over when there are some already: others ask for the folder, git's state, and files.
const TRANSFER: usize = 4;

/// The connection breaks at so many places of a transfer that is not the first.
#[test]
fn a_later_transfer_that_is_cut_off_is_made_whole_by_the_next() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    place.ok();
    let mut cuts = 0;
    for round in 0_u64.. {
        write(&host, "a.txt", &format!("round {round}\n"));
        write(&host, "deep/more", &"y".repeat(3000));
        git(&host, &["add", "-A"]);
        git(&host, &["commit", "-qm", "more"]);
        let after = 1 + 650 * round;
        let cut = place.put_over(&Options::default(), How::default(), &|number| {
            (number == TRANSFER).then_some(after)
        });
        if cut.is_ok() {
            break;
        }
        cuts += 1;
        // Its own repository is none that is broken.
        let head = git(&guest, &["rev-parse", "HEAD"]);
        git(&guest, &["cat-file", "-e", &format!("{head}^{{tree}}")]);
        match round % 3 {
            // Here it has gone on meanwhile.
            0 => {
                write(&host, "deep/er/b.txt", &format!("round {round}\n"));
                git(&host, &["commit", "-qam", "and more"]);
            }
            1 => {
                let branch = format!("b{round}");
                git(&host, &["switch", "-qc", &branch]);
            }
            _ => {}
        }
        place
            .put(&Options::default(), How::default())
            .unwrap_or_else(|error| {
                panic!("after {after} bytes it takes the guest's for work: {error:?}")
            });
        place.same();
        assert_eq!(place.ok().bytes, 0);
    }
    assert!(cuts > 10, "{cuts}");
}

#[test]
fn the_guests_own_commit_after_a_transfer_was_cut_off_is_not_overwritten() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    for after in [2000, 4000, 6000, 8000] {
        place.forced();
        write(&host, "a.txt", &format!("after {after}\n"));
        git(&host, &["commit", "-qam", "more"]);
        let cut = place.put_over(&Options::default(), How::default(), &|number| {
            (number == TRANSFER).then_some(after)
        });
        if cut.is_ok() {
            continue;
        }
        git(&guest, &["commit", "-q", "--allow-empty", "-m", "its own"]);
        let refused = place.put(&Options::default(), How::default()).unwrap_err();
        assert!(
            matches!(refused, PrepareError::WouldLose { head: Some(_), .. }),
            "{after}: {refused:?}"
        );
    }
}

fn is_full(error: &PrepareError) -> bool {
    matches!(error, PrepareError::Transfer(TransferError::Refused(told)) if told.code == AgentErrorCode::DiskFull)
}

#[test]
fn a_full_disk_in_the_guest_is_said_and_nothing_there_is_lost() {
    let place = Place::filled();
    let disk = match SmallDisk::at(&place.home(), 6 << 20) {
        Ok(disk) => disk,
        Err(why) => return println!("SKIPPED(a full disk): {why}"),
    };
    let (host, guest) = (place.host(), place.guest());
    // The first time: nothing of it is taken for whole.
    write(&host, "large", &long());
    git(&host, &["add", "-A"]);
    git(&host, &["commit", "-qm", "large"]);
    let error = place.put(&Options::default(), How::default()).unwrap_err();
    assert!(is_full(&error), "{error:?}");
    assert!(!guest.join("large").exists() && !guest.join(".git/banger/workspace").exists());
    disk.resize(64 << 20);
    place.ok();
    place.same();

    // A later time: what was there is as it was, or as it is here.
    git(&guest, &["commit", "-q", "--allow-empty", "-m", "its own"]);
    place.pull(None);
    write(&guest, "loose", "what a snapshot would have to keep\n");
    let known = fs::read(guest.join(".git/banger/known")).unwrap();
    let before = fs::read(guest.join("large")).unwrap();
    write(&host, "a.txt", "later\n");
    write(&host, "large", &"y".repeat(8_000_000));
    let filler = place.home().join("filler");
    disk.fill(&filler);
    let error = place.put(&Options::default(), FORCED).unwrap_err();
    assert!(is_full(&error), "{error:?}");
    assert!(fs::read(guest.join("large")).unwrap() == before);
    assert_eq!(fs::read(guest.join(".git/banger/known")).unwrap(), known);
    let parts = fs::read_dir(&guest)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(
        parts
            .filter(|name| name.to_string_lossy().contains("part"))
            .count(),
        0
    );

    // What was pulled is noted whole, or not at all.
    let said = place.snapshot().unwrap_err();
    assert!(said.contains("No space left on device"), "{said}");
    place.note(&format!("^{}\n", "a".repeat(40)).repeat(2000));
    assert_eq!(fs::read(guest.join(".git/banger/known")).unwrap(), known);
    let left = fs::read_dir(guest.join(".git/banger")).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.ends_with(".next")).count(), 0);

    fs::remove_file(filler).unwrap();
    place.forced();
    place.same();
}

/// What a pull has put among the objects and not taken away again.
fn left_aside(git_dir: &Path) -> Vec<String> {
    let mut left = vec![];
    for folder in ["objects", "objects/pack"] {
        for entry in fs::read_dir(git_dir.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.contains("tmp") {
                left.push(name);
            }
        }
    }
    left
}

#[test]
fn a_pull_that_is_cut_off_takes_nothing_and_leaves_nothing() {
    let place = Place::filled();
    place.ok();
    let (host, guest) = (place.host(), place.guest());
    write(&guest, "work", &"some work\n".repeat(1000));
    git(&guest, &["add", "-A"]);
    git(&guest, &["commit", "-qm", "work"]);
    let here = repository(&host).unwrap();
    let objects = || git(&host, &["count-objects", "-v"]);
    let before = objects();
    let pack = place.packed(&here);
    for length in [0, 1, 20, pack.len() / 2, pack.len() - 1] {
        let refs = place.snapshot().unwrap();
        let cut = place.file_of(&pack[..length]);
        let error = fetch(&here, "demo", &refs, Some(cut), Some("mine")).unwrap_err();
        assert!(matches!(error, PullError::Git(_)), "{length}: {error:?}");
        assert_eq!(
            left_aside(&host.join(".git")),
            Vec::<String>::new(),
            "{length}"
        );
        assert_eq!(objects(), before, "{length}");
        assert_eq!(git(&host, &["for-each-ref", "refs/banger"]), "");
    }
    // Names that lead to what did not come: the objects are not taken either.
    let mut refs = place.snapshot().unwrap();
    let other = git(&guest, &["hash-object", "-w", "run.sh"]).replace(['0', '1'], "2");
    refs.refs.push(("refs/heads/nowhere".to_owned(), other));
    let whole = place.file_of(&pack);
    fetch(&here, "demo", &refs, Some(whole), None).unwrap_err();
    assert_eq!(objects(), before);
    assert_eq!(left_aside(&host.join(".git")), Vec::<String>::new());
    // A pull that was killed has left this.
    let left = host.join(".git/objects/tmp_objdir-banger-left");
    fs::create_dir_all(left.join("pack")).unwrap();
    place.pull(None);
    assert!(!left.exists());
    assert_eq!(left_aside(&host.join(".git")), Vec::<String>::new());
    git(&host, &["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn a_full_disk_here_is_said_before_anything_is_sent() {
    let place = Place::filled();
    fs::write(place.host().join("noise"), noise(1_000_000)).unwrap();
    git(&place.host(), &["add", "-A"]);
    git(&place.host(), &["commit", "-qm", "large"]);
    let staging = place.folder.path().join("staging");
    fs::create_dir(&staging).unwrap();
    let disk = match SmallDisk::at(&staging, 512 << 10) {
        Ok(disk) => disk,
        Err(why) => return println!("SKIPPED(a full disk): {why}"),
    };
    let refused = place.put(&Options::default(), How::default()).unwrap_err();
    let PrepareError::Checkout(error) = &refused else {
        panic!("{refused:?}")
    };
    assert!(error.is_disk_full(), "{error:?}");
    assert!(!place.guest().exists());
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    disk.resize(64 << 20);
    place.ok();
    place.same();
}

#[test]
fn a_full_disk_here_is_said_and_a_pull_leaves_nothing_on_it() {
    let place = Place::new();
    let disk = match SmallDisk::at(&place.host(), 4 << 20) {
        Ok(disk) => disk,
        Err(why) => return println!("SKIPPED(a full disk): {why}"),
    };
    let (host, guest) = (place.host(), place.guest());
    git(&host, &["init", "-q", "-b", "main"]);
    write(&host, "a.txt", "one\n");
    git(&host, &["add", "-A"]);
    git(&host, &["commit", "-qm", "first"]);
    place.ok();
    fs::write(guest.join("noise"), noise(8_000_000)).unwrap();
    git(&guest, &["add", "-A"]);
    git(&guest, &["commit", "-qm", "large"]);
    let here = repository(&host).unwrap();
    let pack = place.packed(&here);
    let error = fetch(
        &here,
        "demo",
        &place.snapshot().unwrap(),
        Some(place.file_of(&pack)),
        None,
    )
    .unwrap_err();
    assert!(error.is_disk_full(), "{error:?}");
    assert_eq!(left_aside(&host.join(".git")), Vec::<String>::new());
    assert_eq!(git(&host, &["for-each-ref", "refs/banger"]), "");
    disk.resize(64 << 20);
    let new = place.pull(None);
    assert!(
        new.contains(&"refs/banger/demo/heads/main".to_owned()),
        "{new:?}"
    );
    git(&host, &["fsck", "--strict", "--no-dangling"]);
}

/// Somebody else, who has no name.
const NOBODY: u32 = 65534;

fn give_away(at: &Path) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        std::os::unix::fs::lchown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            give_away(&path);
        }
    }
    chown(at, Some(NOBODY), Some(NOBODY)).unwrap();
}

fn owned_by(at: &Path, uid: u32) -> Vec<String> {
    let mut found = vec![];
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.uid() == uid {
            found.push(path.display().to_string());
        }
        if meta.is_dir() {
            found.extend(owned_by(&path, uid));
        }
    }
    found
}

#[test]
fn a_repository_of_another_user_is_refused_here_and_pulled_from_there() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED(repositories of other users): not root");
        return;
    }
    let place = Place::filled();
    place.ok();
    let (host, guest) = (place.host(), place.guest());
    write(&guest, "work", "some work\n");
    give_away(&guest);
    let new = place.pull(None);
    assert!(
        new.contains(&"refs/banger/demo/uncommitted".to_owned()),
        "{new:?}"
    );
    let work = git(&host, &["show", "refs/banger/demo/uncommitted:work"]);
    assert_eq!(work, "some work");
    // What git has made there as root would be in its owner's way.
    let own = guest.join(".git/objects");
    assert_eq!(owned_by(&own, 0), Vec::<String>::new());

    give_away(&host);
    let refused = Collected::new(&host, &Options::default(), &place.staging()).unwrap_err();
    let CheckoutError::NotACheckout { source, .. } = &refused else {
        panic!("{refused:?}")
    };
    assert!(source.is_of_another_user(), "{source}");
    let refused = repository(&host).unwrap_err();
    assert!(
        matches!(&refused, PullError::Git(source) if source.is_of_another_user()),
        "{refused:?}"
    );
}

#[test]
fn an_agent_that_is_too_old_is_told_apart_and_sent_nothing() {
    let place = Place::filled();
    let checkout = Collected::new(&place.host(), &Options::default(), &place.staging()).unwrap();
    let connect = || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut out = RecordWriter::new(&theirs);
        let hello = Hello {
            generation: 2,
            version: "0.0.9".to_owned(),
        };
        out.control(&AgentMessage::Hello(hello)).unwrap();
        out.flush().unwrap();
        drop(out);
        std::thread::spawn(move || std::io::copy(&mut &theirs, &mut std::io::sink()));
        Ok(ours)
    };
    let guest = GuestRepo {
        connect: &connect,
        path: place.guest(),
        home: place.home(),
        progress: &|_| {},
    };
    let refused = prepare(&checkout, &guest, How::default()).unwrap_err();
    let PrepareError::Transfer(TransferError::OldAgent { version }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(version, "0.0.9");
}

#[test]
fn names_of_any_bytes_come_back_too() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    // The repository itself stands in a folder whose name is no text.
    let place = Place::filled();
    let odd = place
        .folder
        .path()
        .join(OsStr::from_bytes(b"caf\xe9\nhere "));
    fs::rename(place.host(), &odd).unwrap();
    std::os::unix::fs::symlink(&odd, place.host()).unwrap();
    place.ok();
    place.same();
    let (host, guest) = (place.host(), place.guest());
    fs::write(guest.join(OsStr::from_bytes(b"new\nline \xff")), "odd").unwrap();
    git(&guest, &["add", "-A"]);
    git(&guest, &["commit", "-qm", "odd"]);
    let commit = git(&guest, &["rev-parse", "HEAD"]);
    fs::write(guest.join(OsStr::from_bytes(b"loose\n\xfe")), "odd").unwrap();
    let branch = OsStr::from_bytes(b"caf\xe9");
    let made = std::process::Command::new("git")
        .arg("-C")
        .arg(&guest)
        .arg("branch")
        .arg(branch)
        .status();
    assert!(made.unwrap().success());
    let (commits, _, files) = place.unpulled();
    assert_eq!(
        (commits, files.as_slice()),
        (1, &[r"loose\n\xfe".to_owned()][..])
    );
    let new = place.pull(None);
    assert!(
        new.contains(&"refs/banger/demo/heads/caf%e9".to_owned()),
        "{new:?}"
    );
    assert_eq!(
        git(&host, &["rev-parse", "refs/banger/demo/heads/main"]),
        commit
    );
    let names = git(
        &host,
        &["ls-tree", "--name-only", "refs/banger/demo/uncommitted"],
    );
    assert!(
        names.contains(r#""new\nline \377""#) && names.contains(r#""loose\n\376""#),
        "{names}"
    );
    assert_eq!(place.pull(None), Vec::<String>::new());
    assert_eq!(place.unpulled(), (0, 0, vec![]));
    git(&host, &["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn a_snapshot_of_no_repository_says_so() {
    let place = Place::new();
    fs::create_dir(place.guest()).unwrap();
    let said = place.snapshot().unwrap_err();
    assert!(said.contains("not a git repository"), "{said}");
}
