//! A file system that is full while VMs are made on it: a small real one, under a banger of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use banger_e2e::{Elsewhere, Finished};
use banger_testkit::SmallDisk;

fn assert_full(finished: &Finished, what: &str) {
    finished.assert_failed(what, 1, &["[disk_full]", "hint: make room"]);
}

fn assert_nothing_of_vms(elsewhere: &Elsewhere, what: &str) {
    let list = elsewhere.run(&["vm", "list", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    assert_eq!(list["vms"].as_array().map(Vec::len), Some(0), "{what}");
    let folders = fs::read_dir(elsewhere.state_dir().join("vms")).unwrap();
    assert_eq!(folders.count(), 0, "{what}");
}

#[test]
fn a_create_on_a_full_file_system_says_so_leaves_nothing_and_works_when_there_is_room() {
    let disk = match SmallDisk::new(32) {
        Err(why) => {
            println!("SKIPPED (loop mount): {why}");
            return;
        }
        Ok(disk) => disk,
    };
    let elsewhere = Elsewhere::with_state(disk.path());
    // What VMs are made of lies where it is; what is made of it comes onto the small disk.
    fs::create_dir(elsewhere.state_dir()).unwrap();
    for artefacts in ["images", "kernels", "initrd"] {
        let theirs = elsewhere.banger().state_dir().join(artefacts);
        symlink(theirs, elsewhere.state_dir().join(artefacts)).unwrap();
    }
    let started = elsewhere.run(&["daemon", "start"]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    let create = [
        "vm",
        "create",
        "--no-start",
        "--name",
        "full",
        "--image",
        "debian-minimal",
    ];
    let filler = disk.fill();
    let full = fs::metadata(&filler).unwrap().len();
    // From nothing at all to enough for the row, and for part of the disks.
    for room_kib in [0, 16, 64, 128, 256, 512] {
        File::options()
            .write(true)
            .open(&filler)
            .and_then(|file| file.set_len(full - room_kib * 1024))
            .unwrap();
        let what = format!("{room_kib} KiB of room");
        assert_full(&elsewhere.run(&create), &what);
        assert_nothing_of_vms(&elsewhere, &what);
    }
    fs::remove_file(&filler).unwrap();
    let created = elsewhere.run(&create);
    assert_eq!(created.code, 0, "{}", created.stderr);
    assert_eq!(elsewhere.run(&["vm", "delete", "full"]).code, 0);
    assert_nothing_of_vms(&elsewhere, "in the end");
}

#[test]
fn a_daemon_that_finds_no_room_does_not_start_and_says_why() {
    let disk = match SmallDisk::new(2) {
        Err(why) => {
            println!("SKIPPED (loop mount): {why}");
            return;
        }
        Ok(disk) => disk,
    };
    let _filler = disk.fill();
    let elsewhere = Elsewhere::with_state(disk.path());
    let finished = elsewhere.run(&["vm", "list"]);
    assert_ne!(finished.code, 0);
    for text in ["No space left on device", "hint:"] {
        assert!(finished.stderr.contains(text), "{}", finished.stderr);
    }
    assert!(!Path::new(&elsewhere.path("run/banger/bangerd.sock")).exists());
}
