//! What was sent another time and is left out this time.

use std::fs;
use std::os::unix::fs::symlink;

use banger_workspace::{How, Options, PrepareError};

use crate::place::{Place, git, write};

fn with_untracked() -> Options {
    Options {
        untracked: true,
        ..Options::default()
    }
}

#[test]
fn what_git_does_not_know_stays_while_it_is_here() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    for name in ["notes/one", "notes/two", "now-ignored", "changed"] {
        write(&host, name, "1");
    }
    place.put(&with_untracked(), How::default()).unwrap();
    let read = |name: &str| fs::read_to_string(guest.join(name)).unwrap();

    // The flag is left out: deleted is what is deleted here, and no more.
    fs::remove_file(host.join("notes/two")).unwrap();
    write(&host, ".gitignore", "ignored/\nnow-ignored\n");
    write(&host, "changed", "changed since");
    write(&host, "new", "never sent");
    let second = place.ok();
    assert_eq!(second.removed, ["notes/two"]);
    assert!(!guest.join("notes/two").exists() && !guest.join("new").exists());
    let kept = ["notes/one", "now-ignored", "changed"].map(read);
    assert_eq!(kept, ["1", "1", "1"]);
    assert_eq!(second.notes.len(), 1, "{:?}", second.notes);
    assert!(second.notes[0].starts_with("left out: changed (untracked"));
    // The guest's own work on it is nobody's loss, and --force sends nothing over it.
    write(&guest, "notes/one", "the guest's");
    place.ok();
    place.forced();
    assert_eq!(read("notes/one"), "the guest's");

    // It is remembered: sent again, only what has changed goes, and what is gone here goes there.
    write(&guest, "notes/one", "1");
    let third = place.put(
        &with_untracked(),
        How {
            force: true,
            dry_run: false,
        },
    );
    let mut sent: Vec<String> = third
        .unwrap()
        .sent
        .into_iter()
        .map(|one| one.path)
        .collect();
    sent.retain(|name| ["changed", "new", "now-ignored"].contains(&name.as_str()));
    assert_eq!(sent, ["changed", "new"]);
    fs::remove_file(host.join("new")).unwrap();
    let fourth = place.ok();
    assert_eq!(fourth.removed, ["new"]);
    assert_eq!(read("changed"), "changed since");
    // Changed in the guest and deleted here is still refused.
    write(&guest, "changed", "the guest's");
    fs::remove_file(host.join("changed")).unwrap();
    let refused = place.put(&Options::default(), How::default()).unwrap_err();
    assert!(
        matches!(refused, PrepareError::WouldLose { .. }),
        "{refused:?}"
    );
}

#[test]
fn it_makes_way_for_what_is_sent() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    write(&host, "was-folder/file", "1");
    write(&host, "was-file", "1");
    write(&host, "linked/file", "1");
    place.put(&with_untracked(), How::default()).unwrap();
    // A link to a folder that has such a file is not that file.
    fs::rename(host.join("linked"), host.join("ignored/linked")).unwrap();
    symlink("ignored/linked", host.join("linked")).unwrap();
    fs::remove_dir_all(host.join("was-folder")).unwrap();
    write(&host, "was-folder", "2");
    fs::remove_file(host.join("was-file")).unwrap();
    write(&host, "was-file/file", "2");
    git(&host, &["add", "was-folder", "was-file", "linked"]);
    // A folder in a file's place is never taken for ours, so it is forced.
    let second = place.forced();
    assert_eq!(
        second.removed,
        ["linked/file", "was-file", "was-folder/file"]
    );
    place.same();
    assert_eq!(
        fs::read_to_string(guest.join("was-file/file")).unwrap(),
        "2"
    );
}

#[test]
fn what_another_commit_lacks_goes_but_not_what_git_does_not_know() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    write(&host, "later", "1");
    git(&host, &["add", "later"]);
    git(&host, &["commit", "-qm", "later"]);
    write(&host, "loose", "1");
    place.put(&with_untracked(), How::default()).unwrap();
    let earlier = Options {
        from: Some("HEAD~1".to_owned()),
        ..Options::default()
    };
    let second = place.put(&earlier, How::default()).unwrap();
    assert_eq!(second.removed, ["later"]);
    assert!(guest.join("loose").exists() && !guest.join("later").exists());
}
