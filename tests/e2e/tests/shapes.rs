//! Repositories of every shape into a real guest and their commits back: the guest has what the index says, byte for
//! byte, and what is committed there arrives under its own id.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use banger_e2e::{Banger, Vm, git};

/// All files and links but git's own: kind, content and name, submodules' too.
const CONTENT: &str = "find . -name .git -prune -o ! -type d -print0 | LC_ALL=C sort -z | while IFS= read -r -d '' f; do \
    if [ -L \"$f\" ]; then printf 'l %s %s\\n' \"$f\" \"$(readlink \"$f\")\"; \
    else [ -x \"$f\" ] && printf 'x '; sha256sum \"$f\"; fi; done | sha256sum";
/// The same for many files: git itself compares them with the index.
const MANY: &str = "git ls-files -s | sha256sum; git -c core.checkStat=minimal diff --stat; find . -path ./.git -prune -o -type f -print | wc -l";

fn commit_all(repo: &Path, message: &str) {
    git(repo, &["add", "-A"]);
    git(repo, &["commit", "-qm", message]);
}

/// Odd names, a link, an executable, and two commits.
fn plain(at: &Path) -> PathBuf {
    let repo = at.join("plain");
    fs::create_dir_all(repo.join("dir with space")).unwrap();
    git(&repo, &["init", "-q", "-b", "main"]);
    fs::write(repo.join("dir with space/new\nline"), "odd\n").unwrap();
    fs::write(repo.join("-dash"), "odd\n").unwrap();
    fs::write(repo.join("tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(repo.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("tool", repo.join("link")).unwrap();
    commit_all(&repo, "first");
    fs::write(repo.join("tool"), "#!/bin/sh\ntrue\n").unwrap();
    commit_all(&repo, "second");
    repo
}

fn shallow(at: &Path, of: &Path) -> PathBuf {
    let url = format!("file://{}", of.display());
    git(at, &["clone", "-q", "--depth", "1", &url, "shallow"]);
    at.join("shallow")
}

fn worktree(at: &Path, of: &Path) -> PathBuf {
    let tree = at.join("worktree");
    git(
        of,
        &[
            "worktree",
            "add",
            "-q",
            "-b",
            "aside",
            tree.to_str().unwrap(),
        ],
    );
    fs::write(tree.join("aside"), "only here\n").unwrap();
    commit_all(&tree, "aside");
    tree
}

/// A pointer as git-lfs leaves it in the index; the tool itself is not there.
fn pointers(at: &Path) -> PathBuf {
    let repo = at.join("pointers");
    fs::create_dir(&repo).unwrap();
    git(&repo, &["init", "-q", "-b", "main"]);
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n",
        "ab".repeat(32)
    );
    fs::write(repo.join("large.bin"), pointer).unwrap();
    commit_all(&repo, "a pointer");
    fs::write(
        repo.join(".gitattributes"),
        "*.bin filter=lfs diff=lfs merge=lfs -text\n",
    )
    .unwrap();
    git(&repo, &["add", ".gitattributes"]);
    git(&repo, &["commit", "-qm", "attributes"]);
    repo
}

fn with_submodule(at: &Path, of: &Path) -> PathBuf {
    let repo = at.join("parent");
    fs::create_dir(&repo).unwrap();
    git(&repo, &["init", "-q", "-b", "main"]);
    fs::write(repo.join("own"), "own\n").unwrap();
    let add = ["-c", "protocol.file.allow=always", "submodule", "add", "-q"];
    git(&repo, &[&add[..], &[of.to_str().unwrap(), "sub"]].concat());
    commit_all(&repo, "a submodule");
    repo
}

/// How many files the large repository has: `BANGER_E2E_FILES`, and few enough without, as 50,000 take minutes under
/// emulation.
fn file_count() -> usize {
    let told = std::env::var("BANGER_E2E_FILES").ok();
    told.map_or(5_000, |count| count.parse().expect("a number of files"))
}

fn many_files(at: &Path) -> PathBuf {
    let repo = at.join("many");
    for folder in 0..250 {
        let folder = repo.join(format!("d{folder}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..file_count() / 250 {
            let text = format!("{} {file}\n", folder.display());
            fs::write(folder.join(format!("f{file}")), text).unwrap();
        }
    }
    git(&repo, &["init", "-q", "-b", "main"]);
    commit_all(&repo, "many");
    repo
}

fn host_sh(repo: &Path, script: &str) -> String {
    let mut bash = std::process::Command::new("bash");
    let output = bash
        .args(["-c", script])
        .current_dir(repo)
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

fn guest_sh(vm: &Vm, folder: &str, script: &str) -> String {
    let done = vm.exec(&["bash", "-c", &format!("cd {folder} && {{ {script}; }}")]);
    assert_eq!(done.code, 0, "{script}: {done:?}");
    done.stdout.trim_end().to_owned()
}

/// In, compared, committed to, out.
fn round_trip(banger: &Banger, vm: &Vm, repo: &Path, content: &str, more: &[&str]) {
    let name = repo.file_name().unwrap().to_str().unwrap();
    let (path, inside) = (repo.to_str().unwrap(), format!("/root/{name}"));
    // A worktree shares its repository's branches.
    let back = format!("back-{name}");
    let prepare = [
        "vm",
        "workspace",
        "prepare",
        &vm.name,
        path,
        "--guest-path",
        &inside,
    ];
    banger.ok(&[&prepare[..], more].concat());
    assert_eq!(
        guest_sh(vm, &inside, content),
        host_sh(repo, content),
        "{name}"
    );
    let state = "git rev-parse HEAD && git status --porcelain && git fsck --strict --no-dangling 2>&1 | grep -v '^notice' || true";
    let head = git(repo, &["rev-parse", "HEAD"]);
    assert_eq!(guest_sh(vm, &inside, state), head, "{name}");
    assert_eq!(
        banger.json(&[&prepare[..], more].concat())["bytes"],
        0,
        "{name}"
    );

    let commit = guest_sh(
        vm,
        &inside,
        "echo guest > from-guest && git add from-guest && git commit -qm guest && git rev-parse HEAD",
    );
    banger.ok(&[
        "vm",
        "workspace",
        "pull",
        &vm.name,
        path,
        "--guest-path",
        &inside,
        "--branch",
        &back,
    ]);
    assert_eq!(git(repo, &["rev-parse", &back]), commit, "{name}");
    assert_eq!(
        git(repo, &["rev-parse", &format!("{back}~1")]),
        head,
        "{name}"
    );
    assert_eq!(
        git(repo, &["show", &format!("{back}:from-guest")]),
        "guest",
        "{name}"
    );
    assert_eq!(git(repo, &["status", "--porcelain"]), "", "{name}");
    git(repo, &["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn repositories_of_every_shape_go_in_whole_and_their_commits_come_back() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "reachable", "--memory", "768"]);
    let place = tempfile::tempdir().unwrap();
    let plain = plain(place.path());
    let shallow = shallow(place.path(), &plain);
    let worktree = worktree(place.path(), &plain);
    let parent = with_submodule(place.path(), &plain);
    for repo in [&plain, &shallow, &worktree, &pointers(place.path())] {
        round_trip(&banger, &vm, repo, CONTENT, &[]);
    }
    round_trip(&banger, &vm, &parent, CONTENT, &["--mode", "full_copy"]);
    let many = many_files(place.path());
    round_trip(&banger, &vm, &many, MANY, &[]);
    assert!(
        host_sh(&many, MANY).ends_with(&format!("\n{}", file_count() / 250 * 250)),
        "the test makes too few files"
    );
}
