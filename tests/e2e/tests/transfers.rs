//! What is brought into a guest, or out of it, while daemon, client, guest or VMM end in the middle of it: it is
//! said, the same command said again brings it whole, and nothing half-done is taken for whole.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_e2e::{Banger, Client, SMALL, Vm, git, until};
use rustix::process::Signal;
use sha2::{Digest, Sha256};

/// Bytes that nothing compresses, the same each time.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let word = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    word.flatten().take(size).collect()
}

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// A repository that takes a while: some large files, many small ones.
fn repository() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let repo = place.path();
    git(repo, &["init", "-q", "-b", "main"]);
    for number in 0..4 {
        fs::write(
            repo.join(format!("large-{number}")),
            noise(24 << 20, number + 1),
        )
        .unwrap();
    }
    for number in 0..1500 {
        let folder = repo.join(format!("d{}", number % 30));
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join(format!("f{number}")),
            format!("file {number}\n"),
        )
        .unwrap();
    }
    git(repo, &["add", "-A"]);
    git(repo, &["commit", "-qm", "first"]);
    place
}

/// Where this side puts aside what it sends or takes in.
fn staging() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").expect("set by scripts/e2e-tests");
    Path::new(&cache).join("banger/staging")
}

/// What is there.
fn staged() -> Vec<PathBuf> {
    let entries = fs::read_dir(staging()).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The size of the largest file that somebody writes below a folder and that has no name yet.
fn arriving(folder: &Path) -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let files = processes.flat_map(|process| fs::read_dir(process.path().join("fd")));
    let files = files.flatten().flatten().map(|entry| entry.path());
    let below = |path: &PathBuf| fs::read_link(path).is_ok_and(|to| to.starts_with(folder));
    let sizes = files
        .filter(below)
        .filter_map(|path| Some(fs::metadata(path).ok()?.len()));
    sizes.max().unwrap_or_default()
}

/// The exit code of a client that SIGKILL ended.
const KILLED: i32 = 128 + 9;

/// How something ends in the middle of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Daemon,
    Client,
    Stop,
    Vmm,
}

/// Starts the command, waits until bytes of it are in the guest, has something end, and gives how the command ended.
fn cut(banger: &Banger, vm: &Vm, args: &[&str], begun: &str, end: End) -> i32 {
    let is_begun = || vm.exec(&["sh", "-c", begun]).code == 0;
    cut_when(banger, vm, args, is_begun, end)
}

/// The same, waiting for something else.
fn cut_when(
    banger: &Banger,
    vm: &Vm,
    args: &[&str],
    is_begun: impl FnMut() -> bool,
    end: End,
) -> i32 {
    let client = Client::start(banger, args);
    until("the transfer has begun", Duration::from_secs(60), is_begun);
    match end {
        End::Daemon => banger.kill_daemon(),
        End::Client => client.signal(Signal::KILL),
        End::Stop => drop(banger.ok(&["vm", "stop", "--grace", "20", &vm.name])),
        End::Vmm => drop(banger.ok(&["vm", "kill", &vm.name])),
    }
    let start = Instant::now();
    let finished = client.end();
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{end:?}: it hangs"
    );
    assert!(
        !finished.stderr.contains("panicked"),
        "{end:?}: {}",
        finished.stderr
    );
    if finished.code != 0 && end != End::Client {
        assert!(
            finished.stderr.contains("error"),
            "{end:?}: {}",
            finished.stderr
        );
    }
    if vm.phase() != "running" {
        banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
    }
    finished.code
}

#[test]
fn a_checkout_that_is_cut_off_is_whole_when_it_is_sent_again() {
    let banger = Banger::from_env();
    let place = repository();
    let path = place.path().to_str().unwrap();
    let head = git(place.path(), &["rev-parse", "HEAD"]);
    let vm = banger.vm(&["--wait", "reachable"]);
    for end in [End::Daemon, End::Client, End::Stop, End::Vmm] {
        vm.sh("rm -rf /root/repo; sync");
        let prepare = ["vm", "workspace", "prepare", &vm.name, path];
        let begun = "test -d /root/repo && test $(du -sk /root/repo | cut -f1) -gt 2000";
        let code = cut(&banger, &vm, &prepare, begun, end);
        let left = staged();
        assert_eq!(left.len(), usize::from(code == KILLED), "{end:?}: {left:?}");
        let again = banger.run(&prepare);
        assert_eq!(staged(), Vec::<PathBuf>::new(), "{end:?}");
        assert_eq!(again.code, 0, "{end:?} ({code}): {}", again.stderr);
        let state = vm.sh(
            "cd /root/repo && git fsck --strict --no-dangling 2>&1 && git status --porcelain && git rev-parse HEAD",
        );
        assert_eq!(state, head, "{end:?}");
        let left = vm.sh("find /root -name '*.banger-part*' -o -name '.banger-tmp*'");
        assert_eq!(left, "", "{end:?}");
    }
    // The user's own side was only read.
    assert_eq!(git(place.path(), &["status", "--porcelain"]), "");
    git(place.path(), &["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn a_file_that_is_cut_off_is_the_old_one_or_none_until_it_is_whole() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let place = tempfile::tempdir().unwrap();
    let (old, new) = (noise(1 << 20, 7), noise(160 << 20, 8));
    let (file, sum) = (place.path().join("file"), digest(&new));
    fs::write(&file, &new).unwrap();
    let to = format!("{}:/root/file", vm.name);
    let small = place.path().join("old");
    fs::write(&small, &old).unwrap();
    for end in [End::Daemon, End::Client, End::Stop, End::Vmm] {
        banger.ok(&["vm", "cp", small.to_str().unwrap(), &to]);
        vm.sh("sync");
        let copy = ["vm", "cp", file.to_str().unwrap(), &to];
        // Until it is whole it has no name: what it takes on the disk tells.
        let begun = "test $(df -k /root | awk 'NR == 2 { print $3 }') -gt 8000";
        let code = cut(&banger, &vm, &copy, begun, end);
        let there = vm.sh("sha256sum /root/file");
        let is = |bytes: &str| there.starts_with(bytes);
        assert!(
            // Nobody has synced: what was whole may be the old one again after a power cut.
            is(&sum) || ((code != 0 || end == End::Vmm) && is(&digest(&old))),
            "{end:?} ({code}): half a file under its name"
        );
        banger.ok(&copy);
        assert!(vm.sh("sha256sum /root/file").starts_with(&sum), "{end:?}");
        assert_eq!(
            vm.sh("ls -A /root | grep banger-part || true"),
            "",
            "{end:?}"
        );
    }
}

#[test]
fn what_comes_out_is_whole_or_what_was_there_before() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let place = tempfile::tempdir().unwrap();
    vm.sh("head -c 96M /dev/urandom >/root/file; sync");
    let sum = vm.sh("sha256sum /root/file");
    let sum = sum.split(' ').next().unwrap();
    let from = format!("{}:/root/file", vm.name);
    let to = place.path().join("file");
    let copy = ["vm", "cp", &from, to.to_str().unwrap()];
    for (end, old) in [
        (End::Daemon, Some("old")),
        (End::Client, None),
        (End::Stop, None),
        (End::Vmm, Some("old")),
    ] {
        let _ = fs::remove_file(&to);
        if let Some(old) = old {
            fs::write(&to, old).unwrap();
        }
        let is_begun = || arriving(place.path()) > 1 << 20;
        let code = cut_when(&banger, &vm, &copy, is_begun, end);
        let there = fs::read(&to).ok();
        if there.as_deref().map(digest).as_deref() != Some(sum) {
            assert_ne!(code, 0, "{end:?}");
            assert_eq!(
                there.as_deref(),
                old.map(str::as_bytes),
                "{end:?}: half a file"
            );
        }
        let names: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
        assert!(names.len() <= 1, "{end:?}: {names:?}");
        banger.ok(&copy);
        assert_eq!(digest(&fs::read(&to).unwrap()), sum, "{end:?}");
    }
}

#[test]
fn a_pull_that_is_cut_off_takes_nothing_and_the_next_takes_all() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "reachable"]);
    let place = tempfile::tempdir().unwrap();
    let repo = place.path();
    git(repo, &["init", "-q", "-b", "main"]);
    fs::write(repo.join("a.txt"), "one\n").unwrap();
    git(repo, &["add", "-A"]);
    git(repo, &["commit", "-qm", "first"]);
    let path = repo.to_str().unwrap();
    banger.ok(&["vm", "workspace", "prepare", &vm.name, path]);
    let pull = ["vm", "workspace", "pull", &vm.name, path];
    let refs = || git(repo, &["for-each-ref", "refs/banger"]);
    for end in [End::Daemon, End::Client, End::Stop, End::Vmm] {
        vm.sh("cd /root/repo && head -c 48M /dev/urandom >large && git add large && git -c core.compression=0 commit -qm large && sync");
        let commit = vm.sh("cd /root/repo && git rev-parse HEAD");
        let before = refs();
        let is_begun = || arriving(&staging()) > 1 << 20;
        let code = cut_when(&banger, &vm, &pull, is_begun, end);
        if code != 0 {
            assert_eq!(refs(), before, "{end:?}");
        }
        let objects = fs::read_dir(repo.join(".git/objects")).unwrap();
        let names = objects.map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names
            .filter(|name| name.to_string_lossy().starts_with("tmp"))
            .collect();
        assert!(left.is_empty(), "{end:?}: {left:?}");
        assert_eq!(staged(), Vec::<PathBuf>::new(), "{end:?}");
        banger.ok(&pull);
        let name = format!("refs/banger/{}/heads/main", vm.name);
        assert_eq!(git(repo, &["rev-parse", &name]), commit, "{end:?}");
        git(repo, &["fsck", "--strict", "--no-dangling"]);
    }
}

#[test]
fn a_run_whose_checkout_is_cut_off_leaves_a_vm_that_takes_it_again() {
    let banger = Banger::from_env();
    let place = repository();
    let path = place.path().to_str().unwrap();
    let head = git(place.path(), &["rev-parse", "HEAD"]);
    for end in [End::Daemon, End::Client] {
        let name = format!("cut-{end:?}-{}", std::process::id()).to_lowercase();
        let client = Client::start(&banger, &["vm", "run", "-d", "--name", &name, path]);
        let begun = "test -d /root/repo && test $(du -sk /root/repo | cut -f1) -gt 2000";
        let exec = ["vm", "exec", &name, "--", "sh", "-c", begun];
        let is_begun = || banger.run(&exec).code == 0;
        until("the transfer has begun", Duration::from_secs(300), is_begun);
        let vm = banger.adopt(&name);
        match end {
            End::Daemon => banger.kill_daemon(),
            _ => client.signal(Signal::KILL),
        }
        let ran = client.end();
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        if ran.code != 0 {
            assert!(
                end == End::Client || ran.stderr.contains("error"),
                "{}",
                ran.stderr
            );
            banger.ok(&[
                "vm",
                "workspace",
                "prepare",
                &name,
                path,
                "--include-untracked",
            ]);
        }
        let state = vm.sh(
            "cd /root/repo && git fsck --strict --no-dangling 2>&1 && git status --porcelain && git rev-parse HEAD",
        );
        assert_eq!(state, head, "{end:?}");
    }
}
