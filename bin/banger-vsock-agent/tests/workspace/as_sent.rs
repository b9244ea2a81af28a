//! What a guest holds of its own, found without asking git.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use banger_workspace::{How, Options};

use crate::place::{Place, git, write};

#[test]
fn what_is_as_it_was_sent_is_known_without_git() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    write(&host, "a.txt", "changed here\n");
    let options = Options {
        untracked: true,
        ..Options::default()
    };
    place.put(&options, How::default()).unwrap();
    assert!(place.is_as_sent());
    assert_eq!(place.unpulled(), (0, 0, vec![]));
    // Reading does no harm.
    git(&guest, &["status"]);
    git(&guest, &["log", "-1"]);
    assert!(place.is_as_sent());

    let changes: [(&str, &dyn Fn()); 9] = [
        ("a file", &|| write(&guest, "a.txt", "changed there\n")),
        ("a new file", &|| write(&guest, "new-there.txt", "")),
        ("a file less", &|| {
            fs::remove_file(guest.join("a.txt")).unwrap()
        }),
        ("a mode", &|| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(guest.join("a.txt"), mode).unwrap();
        }),
        ("a commit", &|| {
            drop(git(&guest, &["commit", "-q", "--allow-empty", "-m", "x"]))
        }),
        ("a commit on no branch", &|| {
            git(&guest, &["checkout", "-q", "--detach"]);
            git(&guest, &["commit", "-q", "--allow-empty", "-m", "x"]);
        }),
        ("a packed commit", &|| {
            git(&guest, &["commit", "-q", "--allow-empty", "-m", "x"]);
            git(&guest, &["pack-refs", "--all"]);
        }),
        ("a tag", &|| drop(git(&guest, &["tag", "light"]))),
        ("a stash", &|| drop(git(&guest, &["stash", "push", "-q"]))),
    ];
    for (what, change) in changes {
        fs::remove_dir_all(&guest).unwrap();
        place.put(&options, How::default()).unwrap();
        assert!(place.is_as_sent(), "before {what}");
        change();
        assert!(!place.is_as_sent(), "{what}");
        place.unpulled();
    }
}

/// Git in the guest compares size and seconds only, `core.checkStat` says why: what is changed within the second in
/// which it was added, to the same size, it must see all the same.
#[test]
fn what_changed_in_the_second_of_its_commit_is_changed_there_too() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let of_then = |path: PathBuf| {
        let file = fs::File::open(path).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(at))
            .unwrap();
    };
    write(&host, "quick.txt", "one\n");
    of_then(host.join("quick.txt"));
    git(&host, &["add", "-A"]);
    git(&host, &["commit", "-qm", "quick"]);
    // As if the index, too, had been written in that second: git here then looks into the file.
    of_then(host.join(".git/index"));
    write(&host, "quick.txt", "two\n");
    of_then(host.join("quick.txt"));
    assert_eq!(git(&host, &["diff", "--name-only"]), "quick.txt");
    of_then(host.join(".git/index"));
    place.ok();
    place.same();
    // What is not merged here is not merged there.
    git(&host, &["commit", "-qam", "two"]);
    git(&host, &["checkout", "-q", "-b", "side", "HEAD~"]);
    write(&host, "quick.txt", "three\n");
    git(&host, &["commit", "-qam", "three"]);
    let merge = Command::new("git")
        .arg("-C")
        .arg(&host)
        .args(["merge", "-q", "main"])
        .output()
        .unwrap();
    assert!(!merge.status.success());
    place.forced();
    place.same();
    let unmerged = git(&host, &["ls-files", "-u"]);
    assert!(unmerged.contains("quick.txt"));
    assert_eq!(git(&guest, &["ls-files", "-u"]), unmerged);
}
