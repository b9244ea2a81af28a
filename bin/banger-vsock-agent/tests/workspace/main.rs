//! A git checkout through the agent to another folder, and its commits back: real git on both sides,
//! socket pairs in place of vsock.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod as_sent;
mod faults;
mod left_out;
mod many;
mod place;
mod planted;
mod renamed;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use banger_workspace::{
    CheckoutError, Collected, GuestRefs, How, LostReason, Mode, Options, PACK, PrepareError, fetch,
    repository, wanted,
};

use place::{Place, git, write};

#[test]
fn a_checkout_arrives_whole_and_again_only_what_changed() {
    let place = Place::filled();
    let first = place.ok();
    assert_eq!(first.sent.len(), 8, "{first:?}");
    place.same();
    assert_eq!(
        git(&place.guest(), &["rev-list", "--count", "HEAD"]),
        "1",
        "shallow"
    );
    let name = ["config", "--file", ".git/config", "user.name"];
    assert_eq!(git(&place.guest(), &name), "Ann \"A\"");
    assert_eq!(
        git(&place.guest(), &["symbolic-ref", "HEAD"]),
        "refs/heads/main"
    );

    let again = place.ok();
    assert_eq!(
        (again.sent.len(), again.git_bytes, again.unchanged),
        (0, 0, 8),
        "{again:?}"
    );

    // Changed, staged, new, deleted, and untracked, which stays here.
    let host = place.host();
    write(&host, "a.txt", "changed\n");
    write(&host, "staged.txt", "staged\n");
    git(&host, &["add", "staged.txt"]);
    write(&host, "staged.txt", "staged, then changed\n");
    fs::remove_file(host.join("deep/er/b.txt")).unwrap();
    write(&host, "untracked", "x");
    let third = place.ok();
    let sent: Vec<&str> = third.sent.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(
        (sent.as_slice(), third.removed.as_slice()),
        (
            &["a.txt", "staged.txt"][..],
            &["deep/er/b.txt".to_owned()][..]
        )
    );
    place.same();
    assert!(!place.guest().join("untracked").exists() && !place.guest().join("deep").exists());
    assert_eq!(
        git(&place.guest(), &["show", ":staged.txt"]),
        "staged",
        "what is staged is staged there, too"
    );
    let with = Options {
        untracked: true,
        ..Options::default()
    };
    place.put(&with, How::default()).unwrap();
    assert!(place.guest().join("untracked").exists());

    // A commit here moves the guest's branch along, as it has no commits of its own.
    git(&host, &["add", "-A"]);
    git(&host, &["commit", "-qm", "third"]);
    place.ok();
    place.same();
}

#[test]
fn stashes_come_back_with_all_that_they_hold_and_stay_when_they_are_gone_there() {
    let place = Place::filled();
    place.ok();
    let (host, guest) = (place.host(), place.guest());
    write(&guest, "a.txt", "stashed\n");
    write(&guest, "new.txt", "stashed, too\n");
    git(&guest, &["stash", "push", "-q", "--include-untracked"]);
    write(&guest, "a.txt", "stashed later\n");
    git(&guest, &["stash", "push", "-q"]);
    let ids = git(&guest, &["stash", "list", "--format=%H"]);
    let names: Vec<String> = ids
        .lines()
        .map(|id| format!("refs/banger/demo/stash/{id}"))
        .collect();
    assert_eq!(names.len(), 2);
    let new = place.pull(None);
    assert!(names.iter().all(|name| new.contains(name)), "{new:?}");
    assert_eq!(place.pull(None), Vec::<String>::new());
    git(&guest, &["stash", "clear"]);
    assert_eq!(place.pull(None), Vec::<String>::new());
    git(&host, &["stash", "apply", "-q", &names[1]]);
    let read = |name: &str| fs::read_to_string(host.join(name)).unwrap();
    assert_eq!(
        (read("a.txt"), read("new.txt")),
        ("stashed\n".into(), "stashed, too\n".into())
    );
}

#[test]
fn tags_come_back_and_are_missed_until_they_did() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    git(&host, &["tag", "here"]);
    let all = Options {
        mode: Mode::FullCopy,
        ..Options::default()
    };
    place.put(&all, How::default()).unwrap();
    assert_eq!(place.unpulled(), (0, 0, vec![]), "what was sent is here");
    git(&guest, &["tag", "light"]);
    git(&guest, &["commit", "-q", "--allow-empty", "-m", "left"]);
    git(&guest, &["tag", "-am", "with a word", "v1/one"]);
    let tag = git(&guest, &["rev-parse", "v1/one"]);
    git(&guest, &["tag", "-am", "of a tag", "outer", "v1/one"]);
    git(&guest, &["tag", "file", "HEAD:a.txt"]);
    git(&guest, &["reset", "-q", "--hard", "HEAD~1"]);
    assert_eq!(place.unpulled(), (1, 4, vec![]));
    let new = place.pull(None);
    let mut named: Vec<&str> = new
        .iter()
        .filter_map(|name| name.strip_prefix("refs/banger/demo/tags/"))
        .collect();
    named.sort_unstable();
    assert_eq!(named, ["file", "light", "outer", "v1/one"], "{new:?}");
    let came = |name: &str| git(&host, &["rev-parse", &format!("refs/banger/demo/{name}")]);
    assert_eq!(came("tags/v1/one"), tag);
    assert_eq!(place.unpulled(), (0, 0, vec![]));
    assert_eq!(place.pull(None), Vec::<String>::new());
    // Moved to a later commit: the earlier tag is kept.
    git(&guest, &["tag", "-fam", "again", "v1/one", "HEAD"]);
    assert_eq!(place.unpulled(), (0, 1, vec![]));
    assert_eq!(place.pull(None), ["refs/banger/demo/tags/v1/one"]);
    assert_ne!(came("tags/v1/one"), tag);
    assert_eq!(came(&format!("kept/{tag}")), tag);
    git(&host, &["fsck", "--strict", "--no-dangling"]);
    // Once more from here: they are no news.
    write(&host, "a.txt", "later\n");
    git(&host, &["commit", "-qam", "later"]);
    place.put(&all, How::default()).unwrap();
    assert_eq!(place.unpulled(), (0, 0, vec![]));
}

#[test]
fn the_guests_work_is_never_overwritten_unasked() {
    let place = Place::filled();
    place.ok();
    let (host, guest) = (place.host(), place.guest());
    write(&guest, "a.txt", "the guest's\n");
    write(&guest, "own.txt", "the guest's\n");
    // Nothing here has changed: all stays as it is.
    assert_eq!(place.ok().sent.len(), 0);
    assert_eq!(
        fs::read_to_string(guest.join("a.txt")).unwrap(),
        "the guest's\n"
    );
    write(&host, "a.txt", "the host's\n");
    write(&host, "own.txt", "the host's\n");
    git(&host, &["add", "own.txt"]);
    let refused = place.put(&Options::default(), How::default()).unwrap_err();
    let PrepareError::WouldLose {
        files, head: None, ..
    } = &refused
    else {
        panic!("{refused:?}")
    };
    let lost: Vec<(String, LostReason)> = files
        .iter()
        .map(|lost| (lost.path.to_string(), lost.reason))
        .collect();
    assert_eq!(
        lost,
        [
            ("a.txt".to_owned(), LostReason::Changed),
            ("own.txt".to_owned(), LostReason::Own)
        ]
    );
    assert_eq!(
        fs::read_to_string(guest.join("a.txt")).unwrap(),
        "the guest's\n"
    );
    place.forced();
    place.same();

    // Its commits.
    git(&guest, &["commit", "-qam", "the guest's"]);
    let commit = git(&guest, &["rev-parse", "HEAD"]);
    write(&host, "new.txt", "x\n");
    git(&host, &["add", "new.txt"]);
    git(&host, &["commit", "-qm", "the host's"]);
    let refused = place.put(&Options::default(), How::default()).unwrap_err();
    let PrepareError::WouldLose {
        head: Some(head), ..
    } = &refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(head.commit.as_deref(), Some(commit.as_str()));
    place.forced();
    place.same();
    assert_eq!(
        git(
            &guest,
            &["rev-parse", &format!("refs/banger/kept/{commit}")]
        ),
        commit
    );
    git(&guest, &["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn a_dry_run_lists_and_sends_nothing() {
    let place = Place::filled();
    let would = place
        .put(
            &Options::default(),
            How {
                force: false,
                dry_run: true,
            },
        )
        .unwrap();
    assert_eq!(would.sent.len(), 8);
    assert!(would.git_bytes > 0);
    assert!(!place.guest().exists());
}

#[test]
fn shapes_of_repositories() {
    // Empty; detached; a branch and another commit.
    let place = Place::new();
    write(&place.host(), "staged", "x");
    git(&place.host(), &["add", "staged"]);
    place.ok();
    assert_eq!(git(&place.guest(), &["status", "--porcelain"]), "A  staged");
    let place = Place::filled();
    git(&place.host(), &["checkout", "-q", "--detach"]);
    place.ok();
    place.same();
    let place = Place::filled();
    write(&place.host(), "a.txt", "not sent\n");
    let options = Options {
        branch: Some("try".to_owned()),
        from: Some("HEAD~1".to_owned()),
        ..Options::default()
    };
    place.put(&options, How::default()).unwrap();
    assert_eq!(
        fs::read_to_string(place.guest().join("a.txt")).unwrap(),
        "one\n"
    );
    assert_eq!(
        git(&place.guest(), &["symbolic-ref", "HEAD"]),
        "refs/heads/try"
    );
    assert_eq!(git(&place.guest(), &["status", "--porcelain"]), "");
    assert_eq!(
        place.put(&options, How::default()).unwrap().sent.len(),
        0,
        "the same again is nothing"
    );

    // A worktree of a bare repository, and a shallow clone.
    let place = Place::filled();
    let (bare, tree) = (
        place.folder.path().join("bare"),
        place.folder.path().join("tree"),
    );
    git(
        place.folder.path(),
        &["clone", "-q", "--bare", "host", "bare"],
    );
    git(
        &bare,
        &["worktree", "add", "-q", tree.to_str().unwrap(), "main"],
    );
    fs::rename(place.host(), place.folder.path().join("was")).unwrap();
    symlink(&tree, place.host()).unwrap();
    place.ok();
    place.same();
    assert!(matches!(
        Collected::new(&bare, &Options::default(), &place.staging()),
        Err(CheckoutError::Bare { .. })
    ));
    let shallow = place.folder.path().join("shallow");
    let url = format!("file://{}", bare.display());
    git(
        place.folder.path(),
        &[
            "clone",
            "-q",
            "--depth",
            "1",
            &url,
            shallow.to_str().unwrap(),
        ],
    );
    fs::remove_file(place.host()).unwrap();
    fs::rename(&shallow, place.host()).unwrap();
    for mode in [Mode::ShallowOverlay, Mode::FullCopy] {
        fs::remove_dir_all(place.guest()).unwrap();
        place
            .put(
                &Options {
                    mode,
                    ..Options::default()
                },
                How::default(),
            )
            .unwrap();
        place.same();
    }
}

#[test]
fn what_is_not_all_there_arrives_as_it_is() {
    // A sparse checkout: the rest is neither sent nor missed.
    let place = Place::filled();
    git(&place.host(), &["sparse-checkout", "set", "other"]);
    assert!(!place.host().join("deep").exists());
    place.ok();
    place.same();
    assert!(!place.guest().join("deep").exists());
    assert_eq!(git(&place.guest(), &["status", "--porcelain"]), "");

    // A partial clone lacks old files; a pointer of LFS is a file like others.
    let place = Place::filled();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    write(&place.host(), "big.bin", pointer);
    write(&place.host(), ".gitattributes", "*.bin filter=lfs\n");
    git(&place.host(), &["add", "-A"]);
    git(&place.host(), &["commit", "-qm", "third"]);
    git(&place.host(), &["config", "uploadpack.allowFilter", "true"]);
    let url = format!("file://{}", place.host().display());
    let top = place.folder.path();
    git(top, &["clone", "-q", "--filter=blob:none", &url, "partial"]);
    fs::rename(place.host(), top.join("origin")).unwrap();
    fs::rename(top.join("partial"), place.host()).unwrap();
    for mode in [Mode::ShallowOverlay, Mode::FullCopy] {
        let _ = fs::remove_dir_all(place.guest());
        let options = Options {
            mode,
            ..Options::default()
        };
        place.put(&options, How::default()).unwrap();
        place.same();
        let sent = fs::read_to_string(place.guest().join("big.bin")).unwrap();
        assert_eq!(sent, pointer);
    }
}

#[test]
fn what_was_cut_off_is_not_taken_for_whole_and_sent_again() {
    let place = Place::filled();
    write(&place.host(), "large", &"x".repeat(20_000_000));
    git(&place.host(), &["add", "-A"]);
    git(&place.host(), &["commit", "-qm", "large"]);
    // The connection breaks after so many bytes of a transfer, as when a client is killed.
    for after in [0, 100, 30_000, 5_000_000] {
        let _ = fs::remove_dir_all(place.guest());
        // The first connection asks what is there.
        let breaks = |number| (number == 2).then_some(after);
        let cut = place.put_over(&Options::default(), How::default(), &breaks);
        assert!(cut.is_err(), "{after}: {cut:?}");
        let marked = place.guest().join(".git/banger/workspace").exists();
        assert!(!marked, "{after}: taken for whole");
        place.ok();
        place.same();
        assert_eq!(place.ok().bytes, 0);
    }
}

#[test]
fn all_history_and_submodules_only_as_a_full_copy() {
    let place = Place::filled();
    let sub = place.folder.path().join("sub");
    git(place.folder.path(), &["init", "-q", "-b", "main", "sub"]);
    write(&sub, "inner.txt", "x\n");
    git(&sub, &["add", "-A"]);
    git(&sub, &["commit", "-qm", "sub"]);
    git(
        &place.host(),
        &[
            "submodule",
            "--quiet",
            "add",
            sub.to_str().unwrap(),
            "lib/sub",
        ],
    );
    git(&place.host(), &["commit", "-qm", "with a submodule"]);
    git(&place.host(), &["tag", "v1", "HEAD~1"]);
    let refused = place.put(&Options::default(), How::default()).unwrap_err();
    assert!(
        matches!(&refused, PrepareError::Checkout(CheckoutError::Submodules { path }) if path.to_string() == "lib/sub"),
        "{refused:?}"
    );
    let options = Options {
        mode: Mode::FullCopy,
        ..Options::default()
    };
    place.put(&options, How::default()).unwrap();
    place.same();
    let guest = place.guest();
    assert_eq!(git(&guest, &["rev-list", "--count", "HEAD"]), "3");
    assert_eq!(
        git(&guest, &["rev-parse", "v1"]),
        git(&place.host(), &["rev-parse", "v1"])
    );
    assert_eq!(
        fs::read_to_string(guest.join("lib/sub/inner.txt")).unwrap(),
        "x\n"
    );
    git(&guest.join("lib/sub"), &["fsck", "--strict"]);
    assert_eq!(git(&guest, &["status", "--porcelain"]), "");
    assert_eq!(place.put(&options, How::default()).unwrap().bytes, 0);
}

#[test]
fn work_in_submodules_comes_back_into_their_repositories() {
    let place = Place::filled();
    let (host, guest) = (place.host(), place.guest());
    let top = place.folder.path();
    for name in ["inner", "sub"] {
        git(top, &["init", "-q", "-b", "main", name]);
        write(&top.join(name), "file.txt", "x\n");
        git(&top.join(name), &["add", "-A"]);
        git(&top.join(name), &["commit", "-qm", name]);
    }
    let add = |at: &std::path::Path, from: &str, to: &str| {
        let from = top.join(from);
        git(
            at,
            &["submodule", "--quiet", "add", from.to_str().unwrap(), to],
        );
        git(at, &["commit", "-qm", "with a submodule"]);
    };
    add(&top.join("sub"), "inner", "deep");
    add(&host, "sub", "lib/a sub");
    git(
        &host,
        &["submodule", "--quiet", "update", "--init", "--recursive"],
    );
    // Changed here, it is sent so and no work of the guest's.
    write(&host, "lib/a sub/file.txt", "changed here\n");
    let all = Options {
        mode: Mode::FullCopy,
        ..Options::default()
    };
    place.put(&all, How::default()).unwrap();
    let text = fs::read_to_string(guest.join("lib/a sub/file.txt")).unwrap();
    assert_eq!(text, "changed here\n");
    assert_eq!(place.unpulled(), (0, 0, vec![]));

    let (sub, inner) = (guest.join("lib/a sub"), guest.join("lib/a sub/deep"));
    write(&inner, "file.txt", "the guest's\n");
    git(&inner, &["commit", "-qam", "the guest's"]);
    git(&inner, &["tag", "v1"]);
    let commit = git(&inner, &["rev-parse", "HEAD"]);
    write(&sub, "new.txt", "loose\n");
    let held = (1, 1, vec!["lib/a sub/new.txt".to_owned()]);
    assert_eq!(place.unpulled(), held);

    // Nothing of it is replaced unasked.
    write(&host, "a.txt", "later\n");
    git(&host, &["commit", "-qm", "later", "--", "a.txt"]);
    let refused = place.put(&all, How::default()).unwrap_err();
    let PrepareError::WouldLose { submodules, .. } = &refused else {
        panic!("{refused:?}")
    };
    let names: Vec<String> = submodules.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["lib/a sub/deep"]);

    place.pull(None);
    let new = place.pull_submodules();
    for name in [
        "lib/a sub: refs/banger/demo/uncommitted",
        "lib/a sub/deep: refs/banger/demo/tags/v1",
        "lib/a sub/deep: refs/banger/demo/HEAD",
    ] {
        assert!(new.contains(&name.to_owned()), "{name}: {new:?}");
    }
    let here = host.join("lib/a sub/deep");
    assert_eq!(git(&here, &["rev-parse", "refs/banger/demo/HEAD"]), commit);
    let loose = git(
        &host.join("lib/a sub"),
        &["show", "refs/banger/demo/uncommitted:new.txt"],
    );
    assert_eq!(loose, "loose");
    assert_eq!(place.pull_submodules(), Vec::<String>::new());
    assert_eq!(place.unpulled(), (0, 0, vec![]));
    assert_eq!(git(&here, &["status", "--porcelain"]), "");

    // What was pulled may go; what is not is kept when that is forced.
    git(&inner, &["commit", "-q", "--allow-empty", "-m", "more"]);
    let more = git(&inner, &["rev-parse", "HEAD"]);
    let how = How {
        force: true,
        dry_run: false,
    };
    place.put(&all, how).unwrap();
    git(&inner, &["rev-parse", &format!("refs/banger/kept/{more}")]);
    assert_eq!(place.unpulled().0, 1);
}

#[test]
fn branches_that_the_guest_has_packed_are_kept() {
    let place = Place::filled();
    let all = Options {
        mode: Mode::FullCopy,
        ..Options::default()
    };
    place.put(&all, How::default()).unwrap();
    let (host, guest) = (place.host(), place.guest());
    git(
        &guest,
        &["commit", "-q", "--allow-empty", "-m", "the guest's"],
    );
    let own = git(&guest, &["rev-parse", "HEAD"]);
    git(&guest, &["branch", "side"]);
    git(&guest, &["reset", "-q", "--hard", "HEAD~1"]);
    git(&guest, &["pack-refs", "--all"]);
    write(&host, "a.txt", "later\n");
    git(&host, &["commit", "-qam", "later"]);
    place.put(&all, How::default()).unwrap();
    git(&guest, &["rev-parse", &format!("refs/banger/kept/{own}")]);
    assert_eq!(place.unpulled().0, 1);
}

#[test]
fn metadata_alone_leave_files_as_they_are() {
    let place = Place::filled();
    let alone = Options {
        mode: Mode::MetadataOnly,
        ..Options::default()
    };
    let first = place.put(&alone, How::default()).unwrap();
    assert_eq!((first.sent.len(), first.removed.len()), (0, 0));
    let (host, guest) = (place.host(), place.guest());
    let of = |at: &std::path::Path, what: &[&str]| git(at, what);
    assert_eq!(
        of(&guest, &["ls-files", "--stage"]),
        of(&host, &["ls-files", "--stage"])
    );
    assert!(!guest.join("a.txt").exists());
    assert_eq!(place.unpulled(), (0, 0, vec![]), "nothing is the guest's");
    git(&guest, &["checkout", "-q", "--", "."]);
    assert_eq!(
        fs::read_to_string(guest.join("a.txt")).unwrap(),
        "one, again\n"
    );

    // After files were sent: they stay, also when it is forced, and are still known to have been sent.
    let place = Place::filled();
    place.ok();
    let (host, guest) = (place.host(), place.guest());
    write(&guest, "run.sh", "the guest's\n");
    write(&host, "a.txt", "third\n");
    git(&host, &["commit", "-qam", "third"]);
    for force in [false, true] {
        let how = How {
            force,
            ..How::default()
        };
        let put = place.put(&alone, how).unwrap();
        assert_eq!((put.sent.len(), put.removed.len()), (0, 0), "{force}");
        let read = |name: &str| fs::read_to_string(guest.join(name)).unwrap();
        assert_eq!(
            (read("a.txt"), read("run.sh")),
            ("one, again\n".to_owned(), "the guest's\n".to_owned())
        );
        assert_eq!(
            of(&guest, &["rev-parse", "HEAD"]),
            of(&host, &["rev-parse", "HEAD"])
        );
        assert_eq!(place.unpulled().2, ["run.sh"]);
    }
    git(&guest, &["checkout", "-q", "--", "run.sh"]);
    let sent = place.forced().sent;
    let names: Vec<&str> = sent.iter().map(|file| file.path.as_str()).collect();
    assert!(names.contains(&"a.txt"), "{names:?}");
    place.same();
}

#[test]
fn bad_places_are_refused() {
    let place = Place::filled();
    let not =
        Collected::new(place.folder.path(), &Options::default(), &place.staging()).unwrap_err();
    assert!(matches!(not, CheckoutError::NotACheckout { .. }), "{not:?}");
    fs::write(place.guest(), "a file").unwrap();
    let refused = place.put(&Options::default(), How::default()).unwrap_err();
    assert!(
        matches!(refused, PrepareError::NotAFolder { what: "a file", .. }),
        "{refused:?}"
    );
    fs::remove_file(place.guest()).unwrap();
    symlink("/tmp", place.guest()).unwrap();
    let refused = place.put(&Options::default(), How::default()).unwrap_err();
    assert!(
        matches!(refused, PrepareError::NotAFolder { what: "a link", .. }),
        "{refused:?}"
    );
    let options = Options {
        from: Some("no-such".to_owned()),
        ..Options::default()
    };
    assert!(matches!(
        place.put(&options, How::default()),
        Err(PrepareError::Checkout(CheckoutError::NoCommit { .. }))
    ));
    let options = Options {
        branch: Some("a..b".to_owned()),
        ..Options::default()
    };
    assert!(matches!(
        place.put(&options, How::default()),
        Err(PrepareError::Checkout(CheckoutError::BadBranch { .. }))
    ));
}

#[test]
fn commits_come_back_with_their_ids_and_nothing_is_lost_or_doubled() {
    let place = Place::filled();
    place.ok();
    let (host, guest) = (place.host(), place.guest());
    assert_eq!(
        place.pull(None),
        ["refs/banger/demo/heads/main", "refs/banger/demo/HEAD"]
    );
    let mut commits = vec![];
    for round in 0..10 {
        write(&guest, "work.txt", &format!("round {round}\n"));
        git(&guest, &["add", "-A"]);
        git(&guest, &["commit", "-qm", "work"]);
        commits.push(git(&guest, &["rev-parse", "HEAD"]));
        write(
            &guest,
            "loose.txt",
            &format!("not committed, round {round}\n"),
        );
        let new = place.pull(None);
        assert!(
            new.contains(&"refs/banger/demo/uncommitted".to_owned()),
            "{new:?}"
        );
        assert_eq!(
            place.pull(None),
            Vec::<String>::new(),
            "the same again is nothing new"
        );
        let shown = git(&host, &["show", "refs/banger/demo/uncommitted:loose.txt"]);
        assert_eq!(shown, format!("not committed, round {round}"));
        fs::remove_file(guest.join("loose.txt")).unwrap();
    }
    for commit in &commits {
        git(
            &host,
            &[
                "merge-base",
                "--is-ancestor",
                commit,
                "refs/banger/demo/heads/main",
            ],
        );
    }
    // Thrown away in the guest: it stays here.
    git(&guest, &["reset", "-q", "--hard", "HEAD~3"]);
    write(&guest, "other.txt", "x\n");
    git(&guest, &["add", "-A"]);
    git(&guest, &["commit", "-qm", "another way"]);
    place.pull(Some("from-demo"));
    let last = commits.last().unwrap();
    git(
        &host,
        &["rev-parse", &format!("refs/banger/demo/kept/{last}")],
    );
    assert_eq!(
        git(&host, &["rev-parse", "from-demo"]),
        git(&guest, &["rev-parse", "HEAD"])
    );
    assert_eq!(
        git(&host, &["status", "--porcelain"]),
        "",
        "the tree here is as it was"
    );
    assert_eq!(git(&host, &["symbolic-ref", "HEAD"]), "refs/heads/main");
    git(&host, &["fsck", "--strict", "--no-dangling"]);
    git(&guest, &["fsck", "--strict", "--no-dangling"]);
    assert_eq!(
        git(
            &host,
            &["rev-list", "--count", "refs/banger/demo/heads/main"]
        ),
        (2 + 7 + 1).to_string()
    );
}

#[test]
fn malformed_objects_are_not_taken() {
    let place = Place::filled();
    place.ok();
    let (host, guest) = (place.host(), place.guest());
    // A tree with an entry `.git`, which git itself would check out over the repository.
    let blob = git(&guest, &["rev-parse", "HEAD:a.txt"]);
    let script = format!(
        "printf '100644 .git\\0' > t && printf {blob} | xxd -r -p >> t && git hash-object --literally -w -t tree t && rm t"
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&guest)
        .output()
        .unwrap();
    let tree = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if tree.len() != 40 {
        println!("SKIPPED(a hostile tree): no xxd here");
        return;
    }
    let commit = git(
        &guest,
        &["commit-tree", &tree, "-m", "hostile", "-p", "HEAD"],
    );
    git(&guest, &["update-ref", "refs/heads/evil", &commit]);
    let list = format!("{commit} refs/heads/evil\n");
    let refs = GuestRefs::parse(list.as_bytes()).unwrap();
    let here = repository(&host).unwrap();
    let input = wanted(&here, "demo", &refs).unwrap().unwrap();
    let pack = place.staging().file().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", PACK, "sh"])
        .arg(&guest)
        .stdin(Stdio::piped())
        .stdout(pack.try_clone().unwrap())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(fetch(&here, "demo", &refs, Some(pack), None).is_err());
    assert!(
        Command::new("git")
            .arg("-C")
            .arg(&host)
            .args(["cat-file", "-e", &commit])
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .code()
            != Some(0)
    );
    assert_eq!(git(&host, &["for-each-ref", "refs/banger"]), "");
}
