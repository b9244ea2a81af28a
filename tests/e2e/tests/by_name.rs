//! ssh, rsync, git and sftp by a VM's name, over vsock: with OpenSSH as users have it, also when the guest
//! has no network.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use banger_e2e::{Banger, SMALL, until};

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

/// An image without sshd: banger's own server is brought there. Every step has its end: `timeout` names the one that has none.
#[test]
fn ssh_and_sftp_work_by_name_in_an_image_without_sshd() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let home = home_with_settings(&banger);
    let (home, name) = (home.path(), &vm.name);
    let brought = || vm.sh("ls /run/banger | grep -c banger-sshd- || true");
    assert_eq!(brought(), "0");
    assert_eq!(banger.ok(&["vm", "ssh", name, "--", "id", "-u"]), "0\n");
    assert_eq!(brought(), "1");
    let ssh = format!("timeout 120 $SSH {name}.vm");
    assert_eq!(ok(home, &format!("{ssh} hostname")).trim(), name);
    let finished = sh(
        home,
        &format!("echo in | {ssh} 'cat; echo err >&2; exit 7'"),
    );
    assert_eq!(finished.status.code(), Some(7));
    assert_eq!(finished.stdout, b"in\n");
    assert_eq!(finished.stderr, b"err\n", "and nothing else is said");
    // A terminal, and one whose client is killed: nothing of it stays behind.
    let typed = sh(
        home,
        &format!("printf 'tty\\nexit 4\\n' | timeout 120 $SSH -tt {name}.vm"),
    );
    assert_eq!(typed.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&typed.stdout).contains("/dev/pts/"));
    let line = "echo $$ >/tmp/pid; exec sleep 4321";
    sh(home, &format!("timeout -s KILL 20 $SSH {name}.vm '{line}'"));
    until("its program ends", Duration::from_secs(60), || {
        vm.exec(&["sh", "-c", "kill -0 $(cat /tmp/pid)"]).code == 1
    });

    let bytes: Vec<u8> = (0..2_500_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(home.join("large"), &bytes).unwrap();
    let both =
        "cd ~ && printf 'put large /root/there\\nget /root/there back\\nls -l /root/there\\n'";
    let listed = ok(
        home,
        &format!("{both} | timeout 300 sftp -q ${{SSH#ssh}} -b - {name}.vm"),
    );
    assert!(listed.contains("10000000"), "{listed}");
    assert!(fs::read(home.join("back")).unwrap() == bytes);
    // Another key is not let in, and no port is forwarded.
    ok(home, "ssh-keygen -q -t ed25519 -N '' -f ~/stranger");
    // The settings' key is one that is not there.
    let stranger = format!(
        "sed \"s,IdentityFile .*,IdentityFile $HOME/stranger,\" $(sed -n 's/^Include \"\\(.*\\)\"/\\1/p' ~/.ssh/config) >~/other \
         && timeout 120 ssh -F ~/other {name}.vm true"
    );
    let refused = sh(home, &stranger);
    assert_eq!(refused.status.code(), Some(255));
    let err = String::from_utf8_lossy(&refused.stderr);
    assert!(err.contains("Permission denied (publickey)"), "{err}");
    let forward = sh(home, &format!("timeout 120 $SSH -W 127.0.0.1:1 {name}.vm"));
    assert_eq!(forward.status.code(), Some(255));
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
