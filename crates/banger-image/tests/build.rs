//! Building the minimal image for real: as root and as an ordinary user, cancelled, without a network,
//! and on a file system that is full.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it could not run"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use banger_image::{BuildError, BuildWatch, Image, ImageStore, Recipe};
use banger_testkit::{OrdinaryUser, SmallDisk};

/// Set for a test that runs this program again under other circumstances: the store's folder.
const STORE: &str = "BANGER_TEST_STORE";

#[derive(Debug, Default)]
struct Watch {
    cancel_at_first_line: bool,
    cancelled: AtomicBool,
}

impl BuildWatch for Watch {
    fn step(&self, title: &str) {
        println!("== {title}");
    }

    fn line(&self, _: &str) {
        self.cancelled
            .fetch_or(self.cancel_at_first_line, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

fn build(store: &Path, watch: &Watch) -> Result<Image, BuildError> {
    let recipe = Recipe::load(&"debian-minimal".parse().unwrap()).unwrap();
    let log = store.with_extension("log");
    ImageStore::open(store).unwrap().build(&recipe, &log, watch)
}

/// Whether images can be built here at all; says so when not.
fn can_build() -> bool {
    let has = |program: &str| Path::new("/usr/bin").join(program).exists();
    let missing: Vec<_> = ["mmdebstrap", "newuidmap", "setpriv", "unshare"]
        .into_iter()
        .filter(|program| !has(program))
        .collect();
    if !missing.is_empty() {
        println!("SKIPPED (image build): this host has no {missing:?}");
    }
    missing.is_empty()
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("SKIPPED (root): this needs root, to become others");
    }
    is_root
}

/// What is in a store, but for the empty files by which its users take turns: those stay.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let is_turn = |path: &PathBuf| {
        let name = path.file_name().unwrap();
        (name == ".turn" || name == ".promoting") && fs::metadata(path).unwrap().len() == 0
    };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| !is_turn(path))
        .collect()
}

/// The host's package lists: names and sizes.
fn apt_lists() -> BTreeMap<PathBuf, u64> {
    let files = fs::read_dir("/var/lib/apt/lists").into_iter().flatten();
    files
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.path(), entry.metadata().unwrap().len()))
        .collect()
}

/// What debugfs(8) says to a request.
fn debugfs(image: &Path, request: &str) -> String {
    let mut command = Command::new("debugfs");
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["-R", request])
        .arg(image);
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

fn assert_owned_by_root(image: &Image) {
    let seed = image.work_seed().unwrap();
    let root = image.rootfs();
    let checked = [
        (&root, "/"),
        (&root, "/bin/busybox"),
        (&root, "/etc/passwd"),
        (&root, "/root"),
        (&root, "/tmp"),
        (&seed, "/"),
    ];
    for (file, path) in checked {
        let stat = debugfs(file, &format!("stat {path}"));
        let owner: Vec<&str> = stat
            .lines()
            .find(|line| line.starts_with("User:"))
            .unwrap_or_else(|| panic!("{path}: {stat}"))
            .split_whitespace()
            .collect();
        assert_eq!(owner[..4], ["User:", "0", "Group:", "0"], "{path}: {stat}");
    }
    assert!(debugfs(&root, "stat /tmp").contains("Mode:  01777"));
    assert!(debugfs(&root, "stat /root").contains("Mode:  0700"));
}

/// Runs a test of this file again, by itself, as what `command` makes of the program.
fn again(test: &str, store: &Path, command: impl FnOnce(&Path) -> Command) -> Output {
    let mut command = command(&std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture"])
        .env(STORE, store);
    command.output().unwrap()
}

#[test]
fn an_image_is_built_and_the_hosts_package_lists_stay() {
    if !can_build() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("images");
    let lists = apt_lists();
    let image = build(&store, &Watch::default()).unwrap();
    assert_owned_by_root(&image);
    assert_eq!(apt_lists(), lists);
    assert_eq!(entries(&store), [store.join("debian-minimal")]);
}

#[test]
fn an_ordinary_user_builds_it_with_the_same_owners() {
    if let Some(store) = std::env::var_os(STORE) {
        // The second run, as that user.
        assert!(!rustix::process::geteuid().is_root());
        let image = build(Path::new(&store), &Watch::default()).unwrap();
        assert_owned_by_root(&image);
        return;
    }
    if !can_build() || !is_root() {
        return;
    }
    let user = OrdinaryUser::new().unwrap();
    let store = user.home().join("images");
    let lists = apt_lists();
    let test = "an_ordinary_user_builds_it_with_the_same_owners";
    let output = again(test, &store, |program| {
        user.command(user.lend(program).unwrap())
    });
    assert!(output.status.success(), "{output:?}");
    let image = ImageStore::open(&store).unwrap().list().unwrap().remove(0);
    assert_owned_by_root(&image);
    assert_eq!(entries(&store), [store.join("debian-minimal")]);
    let owner = fs::metadata(image.rootfs()).unwrap().uid();
    assert_eq!(owner, OrdinaryUser::UID);
    assert_eq!(apt_lists(), lists);
}

#[test]
fn a_cancelled_build_leaves_nothing_and_no_process() {
    if !can_build() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("images");
    let watch = Watch {
        cancel_at_first_line: true,
        ..Watch::default()
    };
    let error = build(&store, &watch).unwrap_err();
    assert!(matches!(error, BuildError::Cancelled), "{error}");
    assert_eq!(entries(&store), Vec::<PathBuf>::new());
    let here = dir.path().display().to_string();
    let names_it = |pid: &Path| {
        let line = fs::read(pid.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&here)
    };
    let left: Vec<PathBuf> = entries(Path::new("/proc"))
        .into_iter()
        .filter(|pid| names_it(pid))
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn a_step_that_breaks_is_named_and_leaves_nothing() {
    if let Some(store) = std::env::var_os(STORE) {
        // The second run, without a network.
        let error = build(Path::new(&store), &Watch::default()).unwrap_err();
        assert!(!error.is_disk_full(), "{error}");
        let BuildError::Step {
            step, tail, log, ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!(*step, "installing packages");
        assert!(!tail.is_empty());
        assert!(fs::metadata(log).unwrap().len() > 0);
        return;
    }
    if !can_build() || !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("images");
    let test = "a_step_that_breaks_is_named_and_leaves_nothing";
    let output = again(test, &store, |program| {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(program);
        command
    });
    assert!(output.status.success(), "{output:?}");
    assert_eq!(entries(&store), Vec::<PathBuf>::new());
}

#[test]
fn a_build_on_a_full_file_system_says_so_and_leaves_nothing() {
    if !can_build() || !is_root() {
        return;
    }
    // Too small for the packages' lists, for the packages, and for the image.
    for mib in [2, 40, 70] {
        let disk = match SmallDisk::new(mib) {
            Err(why) => {
                println!("SKIPPED (loop mount): {why}");
                return;
            }
            Ok(disk) => disk,
        };
        let store = disk.path().join("images");
        let error = build(&store, &Watch::default()).unwrap_err();
        assert!(
            error.is_disk_full(),
            "{mib} MiB: {error} {:?}",
            error.tail()
        );
        assert_eq!(entries(&store), Vec::<PathBuf>::new(), "{mib} MiB");
    }
}
