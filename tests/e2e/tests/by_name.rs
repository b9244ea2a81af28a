//! ssh, rsync, git and sftp by a VM's name, over vsock: with OpenSSH as users have it, also when the guest
//! has no network.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use banger_e2e::Banger;

/// A user's home with banger's settings in its ssh configuration.
fn home_with_settings(banger: &Banger) -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a folder");
    let mut install = banger.command(&["vm", "ssh-config", "--install"]);
    let done = install.env("HOME", home.path()).output().expect("starts");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    home
}

/// ssh takes its home from the user database: the file is named to it.
fn ssh(home: &Path) -> String {
    format!("ssh -F {}", home.join(".ssh/config").display())
}

fn sh(home: &Path, script: &str) -> Output {
    let mut command = Command::new("bash");
    command
        .args(["-c", script])
        .env("HOME", home)
        .env("SSH", ssh(home))
        .env("GIT_SSH_COMMAND", ssh(home))
        .env("GIT_CONFIG_NOSYSTEM", "1");
    command.output().expect("bash starts")
}

/// Runs a script that must succeed, and gives its standard output.
fn ok(home: &Path, script: &str) -> String {
    let output = sh(home, script);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {err}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn ssh_rsync_git_and_sftp_work_by_name_also_without_a_network() {
    let banger = Banger::from_env();
    let vm = banger.vm(&[]);
    let home = home_with_settings(&banger);
    let (home, name) = (home.path(), &vm.name);
    assert_eq!(ok(home, &format!("$SSH {name}.vm hostname")).trim(), name);
    // Nothing but the loopback device is left.
    vm.sh("ip link set eth0 down");
    let script = format!("echo in | $SSH {name}.vm 'cat; echo err >&2; exit 7'");
    let finished = sh(home, &script);
    assert_eq!(finished.status.code(), Some(7));
    assert_eq!(finished.stdout, b"in\n");
    assert_eq!(finished.stderr, b"err\n");

    let tree = home.join("tree");
    fs::create_dir_all(tree.join("inner")).unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(tree.join("inner/large"), &bytes).unwrap();
    fs::write(tree.join("small"), "x").unwrap();
    ok(
        home,
        &format!("rsync -a -e \"$SSH\" ~/tree/ {name}.vm:/root/tree/"),
    );
    ok(
        home,
        &format!("rsync -a -e \"$SSH\" {name}.vm:/root/tree/ ~/back/"),
    );
    assert!(fs::read(home.join("back/inner/large")).unwrap() == bytes);

    ok(
        home,
        "git init -q -b main ~/repo && cd ~/repo && git config user.name a && git config user.email a@b \
         && echo 1 > file && git add file && git commit -qm one",
    );
    vm.sh("git init -q --bare -b main /root/repo.git");
    ok(
        home,
        &format!("cd ~/repo && git push -q ssh://{name}.vm/root/repo.git HEAD:main"),
    );
    let commit = ok(home, "git -C ~/repo rev-parse HEAD");
    assert_eq!(vm.sh("git -C /root/repo.git rev-parse main"), commit.trim());

    let put = "cd ~ && echo 'put tree/small /root/by-sftp' | sftp -q ${SSH#ssh} -b -";
    ok(home, &format!("{put} {name}.vm"));
    assert_eq!(vm.sh("cat /root/by-sftp"), "x");
}

#[test]
fn a_name_that_is_none_and_a_vm_that_is_stopped_say_so() {
    let banger = Banger::from_env();
    let home = home_with_settings(&banger);
    let none = sh(home.path(), "$SSH no-such-vm.vm true");
    assert_eq!(none.status.code(), Some(255));
    let err = String::from_utf8_lossy(&none.stderr);
    assert!(err.contains("there is no VM `no-such-vm`"), "{err}");
    let vm = banger.vm(&["--no-start"]);
    let stopped = sh(home.path(), &format!("$SSH {}.vm true", vm.name));
    let err = String::from_utf8_lossy(&stopped.stderr);
    assert!(err.contains("does not run"), "{err}");
}
