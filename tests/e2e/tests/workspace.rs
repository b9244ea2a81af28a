//! A git checkout in a real guest, and its commits back.

use std::fs;
use std::path::Path;

use banger_e2e::{Banger, git};

/// A repository with two commits, something that is ignored and something untracked.
fn repository(at: &Path) {
    git(at, &["init", "-q", "-b", "main"]);
    git(at, &["config", "user.name", "Ann"]);
    git(at, &["config", "user.email", "ann@example.com"]);
    fs::create_dir(at.join("src")).expect("a folder");
    for (name, text) in [
        ("a.txt", "one\n"),
        ("src/b.txt", "two\n"),
        (".gitignore", "out/\n"),
    ] {
        fs::write(at.join(name), text).expect("a file");
    }
    git(at, &["add", "-A"]);
    git(at, &["commit", "-qm", "first"]);
    fs::write(at.join("a.txt"), "one, again\n").expect("a file");
    git(at, &["commit", "-qam", "second"]);
    fs::create_dir(at.join("out")).expect("a folder");
    fs::write(at.join("out/ignored"), "x").expect("a file");
    fs::write(at.join("untracked"), "x").expect("a file");
}

#[test]
fn a_checkout_goes_in_and_its_commits_come_back() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "reachable"]);
    let place = tempfile::tempdir().expect("a folder");
    let repo = place.path();
    repository(repo);
    let path = repo.to_str().expect("text");
    banger.ok(&["vm", "workspace", "prepare", &vm.name, path]);
    let state = vm.sh("cd /root/repo && git fsck --strict --no-dangling && git status --porcelain && git rev-parse HEAD && ls");
    assert_eq!(
        state,
        format!("{}\na.txt\nsrc", git(repo, &["rev-parse", "HEAD"]))
    );
    let again = banger.json(&["vm", "workspace", "prepare", &vm.name, path]);
    assert_eq!(again["bytes"], 0);

    vm.sh("cd /root/repo && echo guest >c.txt && git add c.txt && git commit -qm guest && echo loose >>a.txt");
    let commit = vm.sh("cd /root/repo && git rev-parse HEAD");
    let diff = banger.ok(&["vm", "workspace", "diff", &vm.name]);
    assert!(diff.contains("+guest") && diff.contains("+loose"), "{diff}");
    banger.ok(&[
        "vm",
        "workspace",
        "pull",
        &vm.name,
        path,
        "--branch",
        "from-guest",
    ]);
    let reference = format!("refs/banger/{}/heads/main", vm.name);
    assert_eq!(git(repo, &["rev-parse", &reference]), commit);
    assert_eq!(
        git(repo, &["show", "from-guest:a.txt"]),
        "one, again\nloose"
    );
    assert_eq!(git(repo, &["rev-parse", "from-guest~1"]), commit);
    assert_eq!(git(repo, &["status", "--porcelain"]), "?? untracked");
    git(repo, &["fsck", "--strict", "--no-dangling"]);

    fs::write(repo.join("a.txt"), "the host's\n").expect("a file");
    let refused = banger.run(&["vm", "workspace", "prepare", &vm.name, path]);
    refused.assert_failed(
        "the guest's work",
        5,
        &["work_in_guest", "a.txt", "--force"],
    );
    let outside = banger.run(&[
        "vm",
        "workspace",
        "prepare",
        &vm.name,
        path,
        "--guest-path",
        "/etc/x",
    ]);
    outside.assert_failed("outside", 2, &["/root"]);
}

#[test]
fn a_run_that_waits_for_services_sends_the_checkout_before() {
    let banger = Banger::from_env();
    let place = tempfile::tempdir().expect("a folder");
    repository(place.path());
    let path = place.path().to_str().expect("text");
    let name = format!("early-{}", std::process::id());
    let ran = banger.run(&["vm", "run", "-d", "--name", &name, path]);
    let vm = banger.adopt(&name);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for next in ["vm workspace diff", "vm workspace pull", "vm exec -it"] {
        assert!(ran.stdout.contains(next), "{}", ran.stdout);
    }
    let all = "/root/repo: 4 files sent";
    assert!(ran.stderr.contains(all), "{}", ran.stderr);
    assert_eq!(
        vm.sh("cd /root/repo && git status --porcelain && cat a.txt"),
        "?? untracked\none, again"
    );
    let seconds = |what: &str| vm.sh(what).parse::<u64>().expect("a time");
    let sent = seconds("stat -c %Z /root/repo/.git/banger/workspace");
    let ready = seconds("stat -c %Y /run/banger/ready");
    assert!(sent <= ready, "it was sent after the services were up");
}

#[test]
fn a_run_with_a_path_is_in_the_checkout_also_without_git_in_the_guest() {
    let banger = Banger::from_env();
    let place = tempfile::tempdir().expect("a folder");
    repository(place.path());
    let inner = place.path().join("src");
    let inner = inner.to_str().expect("text");
    let command = [
        "vm",
        "run",
        "--rm",
        "--image",
        "debian-minimal",
        inner,
        "--",
    ];
    let show = [
        "sh",
        "-c",
        "pwd; cat a.txt untracked; test ! -e out && cat .git/HEAD",
    ];
    let told = banger.ok(&[&command[..], &show].concat());
    assert_eq!(told, "/root/repo\none, again\nxref: refs/heads/main\n");
    let readonly = [
        "vm",
        "run",
        "--rm",
        "--readonly",
        "--image",
        "debian-minimal",
        inner,
        "--",
    ];
    let fails = banger.run(&[&readonly[..], &["touch", "x"]].concat());
    fails.assert_failed("read-only", 1, &["Read-only file system"]);
    let none = banger.run(&["vm", "run", "--rm", "/", "--", "true"]);
    none.assert_failed("no checkout", 125, &["in no git checkout"]);
}
