//! A checkout in a work disk that no guest has had yet: the same as what the agent writes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use banger_workspace::{Collected, How, Options, PlantError, Prepared, Spot, plant};
use ext4_view::{Ext4, FileType};

use crate::place::{Place, git, write};

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Plants the place's checkout into a work disk.
fn planted(
    place: &Place,
    options: &Options,
    seed: Option<&Path>,
) -> Result<Option<(PathBuf, Prepared)>, PlantError> {
    let disk = place.host().with_file_name("planted.ext4");
    let checkout = Collected::new(&place.host(), options, &place.staging()).unwrap();
    let to = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&disk)
        .unwrap();
    let spot = Spot {
        seed,
        home: Path::new("/root"),
        path: Path::new("/root/repo"),
    };
    let prepared = plant(&checkout, spot, to, &|_| Ok(()))?;
    Ok(prepared.map(|prepared| (disk, prepared)))
}

/// Writes what is in a file system's directory into a folder.
fn unpack(from: &Ext4, at: &ext4_view::PathBuf, to: &Path) {
    for entry in from.read_dir(at).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let name: &[u8] = name.as_ref();
        if [&b"."[..], b"..", b"lost+found"].contains(&name) {
            continue;
        }
        let (path, target) = (entry.path(), to.join(OsStr::from_bytes(name)));
        let metadata = from.symlink_metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
        match metadata.file_type() {
            FileType::Directory => {
                fs::create_dir(&target).unwrap();
                unpack(from, &path, &target);
            }
            FileType::Symlink => {
                let link = from.read_link(&path).unwrap();
                symlink(OsStr::from_bytes(link.as_ref()), &target).unwrap();
                continue;
            }
            _ => fs::write(&target, from.read(&path).unwrap()).unwrap(),
        }
        let mode = fs::Permissions::from_mode(metadata.mode().into());
        fs::set_permissions(&target, mode).unwrap();
        let time = metadata.modified();
        let seconds = time.seconds().try_into().unwrap();
        let time = UNIX_EPOCH + Duration::new(seconds, time.nanoseconds());
        let times = fs::FileTimes::new().set_modified(time);
        File::open(&target).unwrap().set_times(times).unwrap();
    }
}

/// Starts the guest with that work disk.
fn boot(place: &Place, disk: &Path) {
    run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(disk));
    let from = Ext4::load_from_path(disk).unwrap();
    unpack(&from, &ext4_view::PathBuf::new("/"), &place.home());
}

/// Kind and mode, and size and time of what is not git's own.
type Looks = (u32, Option<(u64, i64, i64)>);

/// What is below a folder.
fn listed(at: &Path) -> BTreeMap<PathBuf, Looks> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![at.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let inner = path.strip_prefix(at).unwrap().to_owned();
            let is_content = metadata.is_file() && !inner.starts_with(".git");
            let content = (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
            if metadata.is_dir() {
                waiting.push(path);
            }
            // A pack is named after what is in it, which is the same.
            found.insert(inner, (metadata.mode(), is_content.then_some(content)));
        }
    }
    found
}

/// A file system with that in it.
fn seed(place: &Place, fill: impl FnOnce(&Path)) -> PathBuf {
    let tree = place.host().with_file_name("seed");
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    let file = tree.with_extension("ext4");
    run(Command::new("/usr/sbin/mke2fs")
        .args(["-q", "-t", "ext4", "-F", "-E", "root_owner=0:0", "-d"])
        .args([&tree, &file])
        .arg("300M"));
    fs::remove_dir_all(&tree).unwrap();
    file
}

#[test]
fn a_planted_checkout_is_what_the_agent_would_have_written() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    write(&host, "a.txt", "changed\n");
    write(&host, "untracked", "goes along\n");
    let holes = File::create(host.join("holes")).unwrap();
    holes.write_all_at(b"end", 3 << 20).unwrap();
    fs::hard_link(host.join("a.txt"), host.join("again.txt")).unwrap();
    symlink("x".repeat(200), host.join("long-link")).unwrap();
    git(&host, &["add", "long-link", "holes"]);
    fs::remove_file(host.join("deep/er/b.txt")).unwrap();
    let options = Options {
        untracked: true,
        ..Options::default()
    };

    let seed = seed(&place, |tree| {
        fs::write(tree.join(".bashrc"), "alias ll='ls -l'\n").unwrap();
        fs::create_dir(tree.join("bin")).unwrap();
        fs::write(tree.join("bin/tool"), "#!/bin/sh\n").unwrap();
        let mode = fs::Permissions::from_mode(0o4755);
        fs::set_permissions(tree.join("bin/tool"), mode).unwrap();
    });
    let (disk, prepared) = planted(&place, &options, Some(&seed)).unwrap().unwrap();
    boot(&place, &disk);
    place.same();
    assert!(place.is_as_sent());
    let bashrc = fs::read_to_string(place.home().join(".bashrc")).unwrap();
    assert_eq!(bashrc, "alias ll='ls -l'\n");
    let tool = fs::metadata(place.home().join("bin/tool")).unwrap();
    assert_eq!(tool.mode() & 0o7777, 0o4755);
    let there = listed(&guest);
    let links = fs::read_link(guest.join("long-link")).unwrap();
    assert_eq!(links.as_os_str().len(), 200);

    // The agent of a guest that begins with nothing.
    fs::remove_dir_all(&guest).unwrap();
    let sent = place.put(&options, How::default()).unwrap();
    assert_eq!(there, listed(&guest));
    let told = |prepared: &Prepared| {
        let sent = prepared.sent.iter();
        (
            sent.map(|file| (file.path.clone(), file.size))
                .collect::<Vec<_>>(),
            prepared.git_bytes > 0,
            prepared.notes.clone(),
        )
    };
    assert_eq!(told(&prepared), told(&sent));
    assert_eq!(prepared.guest_path, "/root/repo");
}

#[test]
fn it_goes_on_from_there_as_after_any_transfer() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    let (disk, _) = planted(&place, &Options::default(), None).unwrap().unwrap();
    boot(&place, &disk);
    let again = place.ok();
    assert_eq!((again.sent.len(), again.git_bytes), (0, 0), "{again:?}");
    write(&host, "a.txt", "later\n");
    assert_eq!(place.ok().sent.len(), 1);
    place.same();
    git(&host, &["checkout", "-q", "a.txt"]);
    place.ok();

    write(&guest, "work.txt", "the guest's\n");
    assert_eq!(place.unpulled().2, ["work.txt"]);
    git(&guest, &["add", "-A"]);
    git(&guest, &["commit", "-qm", "work"]);
    assert_eq!(place.unpulled(), (1, 0, vec![]));
    place.pull(None);
    assert_eq!(place.unpulled(), (0, 0, vec![]));
    let commit = git(&guest, &["rev-parse", "HEAD"]);
    assert_eq!(git(&host, &["cat-file", "-t", &commit]), "commit");
}

#[test]
fn what_cannot_be_written_again_as_it_is_stays_the_guests_matter() {
    type Fill<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Fill<'_>); 6] = [
        ("much", &|tree| {
            fs::write(tree.join("large"), vec![7; 257 << 20]).unwrap();
        }),
        ("something at the place", &|tree| {
            fs::create_dir(tree.join("repo")).unwrap();
        }),
        ("a file at the place", &|tree| {
            fs::write(tree.join("repo"), "").unwrap();
        }),
        ("two names of one file", &|tree| {
            fs::write(tree.join("one"), "").unwrap();
            fs::hard_link(tree.join("one"), tree.join("two")).unwrap();
        }),
        ("a socket", &|tree| {
            drop(std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap());
        }),
        ("an attribute", &|tree| {
            fs::write(tree.join("one"), "").unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(tree.join("one"), "user.colour", b"red", flags).unwrap();
        }),
    ];
    for (what, fill) in cases {
        let place = Place::filled();
        let seed = seed(&place, fill);
        let answer = planted(&place, &Options::default(), Some(&seed)).unwrap();
        assert!(answer.is_none(), "{what}");
    }
}

#[test]
fn a_seed_that_is_none_is_told() {
    let place = Place::filled();
    let missing = place.home().join("nowhere.ext4");
    let error = planted(&place, &Options::default(), Some(&missing)).unwrap_err();
    assert!(error.to_string().contains("nowhere.ext4"), "{error}");
    assert!(error.is_of_seed() && !error.is_disk_full());
    let short = place.home().join("short");
    fs::write(&short, "no file system").unwrap();
    planted(&place, &Options::default(), Some(&short)).unwrap_err();
    let zeros = place.home().join("zeros");
    fs::write(&zeros, vec![0; 1 << 20]).unwrap();
    assert!(
        planted(&place, &Options::default(), Some(&zeros))
            .unwrap()
            .is_none()
    );
    // Understood, but damaged further in.
    let damaged = seed(&place, |tree| fs::write(tree.join("file"), "x").unwrap());
    let file = File::options().write(true).open(&damaged).unwrap();
    file.set_len(16 << 10).unwrap();
    planted(&place, &Options::default(), Some(&damaged)).unwrap_err();
}
