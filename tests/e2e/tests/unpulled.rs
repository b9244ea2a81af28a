//! Work in a guest that was never pulled: told when the VM stops, and before it is deleted.

use std::fs;
use std::time::Duration;

use banger_e2e::{Banger, Terminal, git, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A repository with a commit, a change and something that git does not know.
fn repository() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a folder");
    let at = place.path();
    git(at, &["init", "-q", "-b", "main"]);
    git(at, &["config", "user.name", "Ann"]);
    git(at, &["config", "user.email", "ann@example.com"]);
    for name in ["a.txt", "b.txt"] {
        fs::write(at.join(name), "one\n").expect("a file");
    }
    git(at, &["add", "-A"]);
    git(at, &["commit", "-qm", "first"]);
    fs::write(at.join("a.txt"), "changed here\n").expect("a file");
    fs::write(at.join("new.txt"), "here, too\n").expect("a file");
    place
}

#[test]
fn a_vm_with_work_of_its_own_is_not_deleted_unasked() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "reachable"]);
    let place = repository();
    let path = place.path().to_str().expect("text");
    banger.ok(&[
        "vm",
        "workspace",
        "prepare",
        &vm.name,
        path,
        "--include-untracked",
    ]);
    // What was sent, changed as it is, is no work of the guest's.
    let stopped = banger.run(&["vm", "stop", &vm.name]);
    assert_eq!(
        (stopped.code, stopped.stderr.contains("never pulled")),
        (0, false),
        "{}",
        stopped.stderr
    );
    banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);

    vm.sh("cd /root/repo && git add b.txt && echo 2 >b.txt && git commit -qm work b.txt && echo 3 >c.txt");
    let delete = banger.run(&["vm", "delete", &vm.name]);
    let texts = [
        "work_in_guest",
        "/root/repo",
        "1 commit",
        "1 changed file (c.txt)",
        "--force",
    ];
    delete.assert_failed("while it runs", 5, &texts);
    assert_eq!(vm.phase(), "running");
    let stopped = banger.run(&["vm", "stop", &vm.name]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert!(
        stopped.stderr.contains("1 commit, 1 changed file (c.txt)"),
        "{}",
        stopped.stderr
    );
    banger.kill_daemon();
    let delete = banger.run(&["vm", "delete", &vm.name]);
    delete.assert_failed("while it is stopped", 5, &texts);
    let declined = |args: &[&str], question: &[&str]| {
        let mut terminal = Terminal::start(&banger.command(args), 24, 200);
        for text in question {
            terminal.expect(text, PATIENCE);
        }
        terminal.type_in("n\r");
        terminal.expect("nothing was deleted", PATIENCE);
        assert_ne!(terminal.wait(), 0);
    };
    let delete = ["vm", "delete", &vm.name];
    declined(&delete, &["Delete all the same? [y/N]"]);
    let question = "Delete these with all that is in them? [y/N]";
    declined(
        &["vm", "prune"],
        &["1 commit, 1 changed file (c.txt)", question],
    );
    assert_eq!(vm.phase(), "stopped");

    // Pulled, it is here; more of it is work again.
    banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
    banger.ok(&["vm", "workspace", "pull", &vm.name, path]);
    let stopped = banger.run(&["vm", "stop", &vm.name]);
    assert!(
        !stopped.stderr.contains("never pulled"),
        "{}",
        stopped.stderr
    );
    banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
    vm.sh("echo 4 >/root/repo/c.txt");
    let delete = banger.run(&["vm", "delete", &vm.name]);
    delete.assert_failed("changed again", 5, &["c.txt"]);
    vm.sh("cd /root/repo && git stash push -q --include-untracked && git diff --quiet");
    let delete = banger.run(&["vm", "delete", &vm.name]);
    delete.assert_failed("put into a stash", 5, &["work_in_guest", "commits"]);
    banger.ok(&["vm", "workspace", "pull", &vm.name, path]);
    let stash = vm.sh("cd /root/repo && git rev-parse refs/stash");
    let pulled = format!("refs/banger/{}/stash/{stash}:a.txt", vm.name);
    git(place.path(), &["cat-file", "-e", &pulled]);
    vm.sh("cd /root/repo && git tag -m 'of the guest' v1");
    let delete = banger.run(&["vm", "delete", &vm.name]);
    delete.assert_failed("a tag", 5, &["never pulled: 1 tag"]);
    banger.ok(&["vm", "workspace", "pull", &vm.name, path]);
    let tag = format!("refs/banger/{}/tags/v1^{{tag}}", vm.name);
    git(place.path(), &["rev-parse", "--verify", &tag]);
    vm.sh("echo 5 >/root/repo/c.txt");
    let delete = banger.run(&["vm", "delete", &vm.name]);
    let only = "never pulled: 1 changed file (c.txt)";
    delete.assert_failed("changed after the pull", 5, &[only]);

    // Nobody asked a guest that was killed.
    banger.ok(&["vm", "kill", &vm.name]);
    until("it does not run", PATIENCE, || vm.phase() != "running");
    let delete = banger.run(&["vm", "delete", &vm.name]);
    let unknown = [
        "work_in_guest",
        "it is not known whether",
        "without being asked",
    ];
    delete.assert_failed("killed", 5, &unknown);
    banger.ok(&["vm", "delete", "--force", &vm.name]);
}

#[test]
fn a_run_that_is_thrown_away_says_what_goes_with_it() {
    let banger = Banger::from_env();
    let place = repository();
    let path = place.path().to_str().expect("text");
    let run = ["vm", "run", "--rm", path, "--", "sh", "-c"];
    let nothing = banger.run(&[&run[..], &["git status"]].concat());
    assert_eq!(nothing.code, 0, "{}", nothing.stderr);
    assert!(
        !nothing.stderr.contains("never pulled"),
        "{}",
        nothing.stderr
    );
    let work = banger.run(&[&run[..], &["git commit -qam all"]].concat());
    assert_eq!(work.code, 0, "{}", work.stderr);
    assert!(
        work.stderr.contains("warning: ") && work.stderr.contains("1 commit"),
        "{}",
        work.stderr
    );
}
