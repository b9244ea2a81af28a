//! What a guest holds of its own, found without asking git.

use std::fs;

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
