//! A git checkout in a real guest, and its commits back.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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
fn a_runs_checkout_is_on_the_work_disk_before_the_guest_boots() {
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
    let written = seconds("stat -c %Z /root/repo");
    let booted = seconds("awk '/^btime/ { print $2 }' /proc/stat");
    assert!(written <= booted, "it was written by the guest");
    // What the image has in /root is there too, and the disk is as large as it should be.
    assert!(vm.sh("cat /root/.bashrc").contains("bashrc"));
    let size = seconds("df --output=size -B1 /root | tail -1");
    assert!(size > 4 << 30, "/root has {size} bytes");
    // Nothing was ever asked of its agent but this: it is known that there may be work in it.
    vm.sh("cd /root/repo && git fsck --strict --no-dangling && echo own >own.txt");
    let refused = banger.run(&["vm", "delete", &name]);
    refused.assert_failed("work in the guest", 5, &["work_in_guest", "own.txt"]);
    vm.sh("rm /root/repo/own.txt");
    let again = banger.json(&[
        "vm",
        "workspace",
        "prepare",
        &name,
        path,
        "--include-untracked",
    ]);
    assert_eq!(again["bytes"], 0, "it is known what was written: {again}");
}

#[test]
fn a_checkout_is_sent_where_the_images_root_cannot_be_written_again_here() {
    let banger = Banger::from_env();
    let place = tempfile::tempdir().expect("a folder");
    let repo = place.path().join("checkout");
    fs::create_dir(&repo).expect("a folder");
    repository(&repo);
    // One file of two names in /root.
    let seed = place.path().join("seed");
    fs::create_dir(&seed).expect("a folder");
    fs::write(seed.join("one"), "both\n").expect("a file");
    fs::hard_link(seed.join("one"), seed.join("two")).expect("a name");
    let disk = place.path().join("seed.ext4");
    let made = Command::new("mke2fs")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-q", "-t", "ext4", "-F", "-d"])
        .args([&seed, &disk])
        .arg("64M")
        .output()
        .expect("mke2fs");
    assert!(made.status.success(), "{made:?}");
    let rootfs = banger.json(&["image", "show", "debian-minimal"])["rootfs"].clone();
    let image = format!("two-names-{}", std::process::id());
    banger.ok(&[
        "image",
        "register",
        "--name",
        &image,
        "--rootfs",
        rootfs.as_str().expect("a path"),
        "--work-seed",
        disk.to_str().expect("text"),
    ]);
    let told = banger.run(&[
        "vm",
        "run",
        "--rm",
        "--image",
        &image,
        repo.to_str().expect("text"),
        "--",
        "sh",
        "-c",
        "stat -c %h /root/one; cat a.txt",
    ]);
    banger.ok(&["image", "delete", &image]);
    assert_eq!(
        (told.code, told.stdout.as_str()),
        (0, "2\none, again\n"),
        "{}",
        told.stderr
    );
    assert!(
        told.stderr.contains("/root/repo: 4 files sent"),
        "{}",
        told.stderr
    );
}

#[test]
fn a_checkout_that_does_not_fit_or_is_interrupted_leaves_nothing() {
    let banger = Banger::from_env();
    let place = tempfile::tempdir().expect("a folder");
    repository(place.path());
    let mut large = fs::File::create(place.path().join("large")).expect("a file");
    let piece = [7; 1 << 20];
    for _ in 0..1100 {
        large.write_all(&piece).expect("room");
    }
    let path = place.path().to_str().expect("text");
    let name = format!("large-{}", std::process::id());
    let run = [
        "vm",
        "run",
        "-d",
        "--name",
        &name,
        "--disk-size",
        "1g",
        path,
    ];
    let cache = std::env::var("XDG_CACHE_HOME").expect("the tests' own");
    let staging = Path::new(&cache).join("banger/staging");
    let held = |at: &Path| {
        let entries = fs::read_dir(at).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let assert_nothing_left = |what: &str| {
        assert_eq!(
            banger.run(&["vm", "show", &name]).code,
            4,
            "{what}: no VM was made"
        );
        for folder in [banger.state_dir().join("planted"), staging.clone()] {
            assert_eq!(held(&folder), Vec::<PathBuf>::new(), "{what}");
        }
    };
    let mut child = banger.spawn(&run);
    banger_e2e::until("it is being written", Duration::from_secs(60), || {
        let disks = held(&staging)
            .into_iter()
            .map(|folder| folder.join("work.ext4"));
        let mut sizes = disks.filter_map(|disk| fs::metadata(disk).ok());
        sizes.any(|found| found.len() > 1 << 20)
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it lives");
    assert_eq!(child.wait().expect("its end").code(), Some(130));
    assert_nothing_left("interrupted");

    let refused = banger.run(&run);
    refused.assert_failed("too large", 2, &["--disk-size 2g"]);
    assert_nothing_left("refused");
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
