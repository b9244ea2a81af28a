//! What goes by ssh: sftp, scp, rsync, git.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use super::world::{World, bytes, put, run};

#[test]
fn sftp_puts_gets_and_lists() {
    let Some(world) = World::with(&["sftp"]) else {
        return;
    };
    let big = bytes(10 << 20);
    put(&world.path("here/big"), &big);
    fs::set_permissions(world.path("here/big"), fs::Permissions::from_mode(0o640)).unwrap();
    put(&world.path("here/sub/small"), b"x");
    let odd = OsStr::from_bytes(b"odd \xff name");
    put(&world.path("here/sub").join(odd), b"y");
    fs::create_dir(world.path("there")).unwrap();
    symlink("big", world.path("there/link")).unwrap();
    let base = world.path("").display().to_string();
    let script = format!(
        "cd {base}there\nlcd {base}here\npwd\nput -p big\nput -rp sub\nmkdir made\nrename big made/moved\n\
         ls -l made\nget -p made/moved back\nln -s made/moved s\nln made/moved hard\nchmod 600 hard\n\
         rm link\ndf .\n-get missing\n-mkdir made\nrmdir sub\n"
    );
    let mut command = world.client("sftp");
    let finished = run(command.args(["-q", "-b", "-", "guest"]), script.as_bytes());
    // The last command fails: the folder is not empty.
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    let said = finished.text();
    assert!(said.contains("-rw-r-----"), "{said}");
    assert!(finished.stderr.contains("missing"), "{finished:?}");
    assert!(fs::read(world.path("here/back")).unwrap() == big);
    let moved = fs::metadata(world.path("there/made/moved")).unwrap();
    let sent = fs::metadata(world.path("here/big")).unwrap();
    assert_eq!(moved.mtime(), sent.mtime());
    assert_eq!((moved.nlink(), moved.mode() & 0o7777), (2, 0o600));
    let link = fs::read_link(world.path("there/s")).unwrap();
    assert_eq!(link, OsStr::new("made/moved"));
    assert!(!world.path("there/link").exists());
    let name = world.path("there/sub").join(odd);
    assert_eq!(fs::read(name).unwrap(), b"y", "names are bytes");
}

#[test]
fn scp_goes_both_ways() {
    let Some(world) = World::with(&["scp"]) else {
        return;
    };
    let sent = bytes(3 << 20);
    put(&world.path("tree/a/b"), &sent);
    let base = world.path("").display().to_string();
    let scp = |words: &[&str]| {
        let mut command = world.client("scp");
        let finished = run(command.args(["-rpq"]).args(words), b"");
        assert!(finished.status.success(), "{words:?} {finished:?}");
    };
    scp(&[&format!("{base}tree"), &format!("guest:{base}copy")]);
    scp(&[&format!("guest:{base}copy"), &format!("{base}back")]);
    assert!(fs::read(world.path("back/a/b")).unwrap() == sent);
}

#[test]
fn rsync_goes_both_ways() {
    let Some(world) = World::with(&["rsync"]) else {
        return;
    };
    let sent = bytes(3 << 20);
    put(&world.path("tree/a/b"), &sent);
    let base = world.path("").display().to_string();
    let rsync = |words: &[&str]| {
        let mut command = Command::new("rsync");
        command.args(["-a", "-e", &world.ssh_line()]).args(words);
        let finished = run(&mut command, b"");
        assert!(finished.status.success(), "{words:?} {finished:?}");
    };
    rsync(&[&format!("{base}tree/"), &format!("guest:{base}copy/")]);
    rsync(&[&format!("guest:{base}copy/"), &format!("{base}back/")]);
    assert!(fs::read(world.path("back/a/b")).unwrap() == sent);
}

#[test]
fn git_pushes_and_clones() {
    let Some(world) = World::with(&["git"]) else {
        return;
    };
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]);
        command.args(words).current_dir(world.path(""));
        command.env("GIT_SSH_COMMAND", world.ssh_line());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        let finished = run(&mut command, b"");
        assert!(finished.status.success(), "{words:?} {finished:?}");
    };
    git(&["init", "-q", "--bare", "bare"]);
    git(&["init", "-q", "-b", "main", "repo"]);
    put(&world.path("repo/big"), &bytes(2 << 20));
    git(&["-C", "repo", "add", "-A"]);
    git(&["-C", "repo", "commit", "-q", "-m", "one"]);
    let url = format!("guest:{}", world.path("bare").display());
    git(&["-C", "repo", "push", "-q", &url, "main"]);
    git(&["clone", "-q", "-b", "main", &url, "clone"]);
    let (sent, got) = (world.path("repo/big"), world.path("clone/big"));
    assert!(fs::read(sent).unwrap() == fs::read(got).unwrap());
}
