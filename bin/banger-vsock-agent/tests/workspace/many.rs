//! As many files as there may be.

use std::fs;
use std::time::Instant;

use banger_workspace::{How, Options};

use crate::place::{Place, git, write};

/// How many: `BANGER_MANY_FILES`, and few enough without that it takes seconds.
fn count() -> usize {
    let told = std::env::var("BANGER_MANY_FILES").ok();
    told.map_or(3000, |count| count.parse().unwrap())
}

/// The most memory that this process has had, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

#[test]
fn many_files_go_come_and_are_compared() {
    let place = Place::new();
    let (host, guest) = (place.host(), place.guest());
    for number in 0..count() {
        let name = format!("some folder/of {}/inner/file number {number}", number / 200);
        write(&host, &name, &format!("{number}\n"));
    }
    git(&host, &["add", "-A"]);
    git(&host, &["commit", "-qm", "many"]);
    let mut begun = Instant::now();
    let mut took = |what: &str| {
        println!(
            "{} files: {what}: {:?}, {} MiB",
            count(),
            begun.elapsed(),
            peak()
        );
        begun = Instant::now();
    };
    took("made");
    let first = place.ok();
    took("sent");
    assert_eq!(first.sent.len(), count());
    let again = place.ok();
    took("sent again");
    assert_eq!((again.bytes, again.unchanged), (0, count()));
    for number in 0..10 {
        let name = format!("some folder/of 0/inner/file number {number}");
        write(&host, &name, "changed\n");
    }
    let third = place.ok();
    took("ten of them sent");
    assert_eq!((third.sent.len(), third.bytes), (10, 80));
    assert_eq!(place.unpulled(), (0, 0, vec![]));
    took("compared");

    // All of them are the guest's work, by name and in a commit.
    for entry in fs::read_dir(guest.join("some folder")).unwrap() {
        for file in fs::read_dir(entry.unwrap().path().join("inner")).unwrap() {
            let path = file.unwrap().path();
            // ext4 would wait for the disk where a file is emptied and written.
            fs::remove_file(&path).unwrap();
            fs::write(&path, "the guest's\n").unwrap();
        }
    }
    took("changed");
    let (_, _, files) = place.unpulled();
    took("told");
    assert_eq!(files.len(), 20, "as many names as are told");
    write(&host, "some folder/of 0/inner/file number 0", "here, too\n");
    let refused = place.put(&Options::default(), How::default());
    assert!(refused.is_err(), "{refused:?}");
    place.pull(None);
    took("pulled");
    place.forced();
    took("sent over what the guest has");
    assert_eq!(place.unpulled(), (0, 0, vec![]));
    let all = git(&guest, &["status", "--porcelain"]);
    assert_eq!(all.lines().count(), 10, "{all}");
}
