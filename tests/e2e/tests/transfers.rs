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
