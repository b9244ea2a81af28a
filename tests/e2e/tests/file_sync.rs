//! `[[file_sync]]` with a real guest: at create, at starts, and what the guest changed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use banger_e2e::{Elsewhere, Finished};

const CONFIG: &str = "bridge_name = \"sync0\"\nbridge_ip = \"172.31.9.1\"\ncidr = \"172.31.9.0/24\"\n\
    [[file_sync]]\nhost = \"~/.gitconfig\"\nguest = \"~/.gitconfig\"\nmode = \"0644\"\n\
    [[file_sync]]\nhost = \"~/secret\"\nguest = \"/root/.config/app/secret\"\n\
    [[file_sync]]\nhost = \"~/tree\"\nguest = \"~/tree\"\n\
    [[file_sync]]\nhost = \"~/not-there\"\nguest = \"~/not-there\"\n";

/// A banger with a home and a configuration of its own, and the minimal image.
struct Synced(Elsewhere);

impl Synced {
    fn new() -> Self {
        let elsewhere = Elsewhere::new();
        elsewhere.copy_artefacts("debian-minimal");
        fs::write(elsewhere.path("config/banger/config.toml"), CONFIG).unwrap();
        fs::create_dir(elsewhere.path("home")).unwrap();
        Self(elsewhere)
    }

    fn home(&self, name: &str) -> PathBuf {
        self.0.path("home").join(name)
    }

    fn run(&self, args: &[&str]) -> Finished {
        let mut command = self.0.command(args);
        let finished = command.env("HOME", self.0.path("home")).output();
        finished.expect("banger starts").into()
    }

    fn ok(&self, args: &[&str]) -> Finished {
        let finished = self.run(args);
        assert_eq!(finished.code, 0, "banger {args:?}\n{}", finished.stderr);
        finished
    }

    fn sh(&self, line: &str) -> String {
        let finished = self.ok(&["vm", "exec", "synced", "--", "sh", "-c", line]);
        finished.stdout.trim_end().to_owned()
    }
}

#[test]
fn files_come_at_create_and_at_starts_and_what_the_guest_changed_stays() {
    let synced = Synced::new();
    fs::write(synced.home(".gitconfig"), "[user]\nname = me\n").unwrap();
    fs::write(synced.home("secret"), "one").unwrap();
    fs::create_dir_all(synced.home("tree/bin")).unwrap();
    fs::write(synced.home("tree/bin/hello"), "#!/bin/sh\necho hi\n").unwrap();
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(synced.home("tree/bin/hello"), executable).unwrap();
    symlink("bin/hello", synced.home("tree/link")).unwrap();
    // The first command finds them: they are there before anything runs.
    let run = synced.ok(&[
        "vm",
        "run",
        "--name",
        "synced",
        "--image",
        "debian-minimal",
        "--memory",
        "256",
        "--",
        "sh",
        "-c",
        "cat /root/.gitconfig /root/.config/app/secret; /root/tree/link",
    ]);
    assert_eq!(run.stdout, "[user]\nname = me\nonehi\n");
    assert!(
        run.stderr.contains("warning: file_sync:") && run.stderr.contains("not-there is not there"),
        "{}",
        run.stderr
    );
    let modes = "cd /root; stat -c '%a %U %n' .gitconfig .config/app/secret tree tree/bin/hello";
    let expected =
        "644 root .gitconfig\n600 root .config/app/secret\n700 root tree\n700 root tree/bin/hello";
    assert_eq!(synced.sh(modes), expected);

    synced.sh("echo two-of-the-guest > /root/.config/app/secret; sync");
    fs::write(synced.home(".gitconfig"), "[user]\nname = other\n").unwrap();
    fs::write(synced.home("secret"), "three").unwrap();
    fs::write(synced.home("not-there"), "there now").unwrap();
    synced.ok(&["vm", "stop", "synced"]);
    let start = synced.ok(&["vm", "start", "synced"]);
    assert!(
        start
            .stderr
            .contains("~/.config/app/secret was changed in the guest"),
        "{}",
        start.stderr
    );
    assert!(!start.stderr.contains("not-there"), "{}", start.stderr);
    let all = synced.sh("cat /root/.gitconfig /root/.config/app/secret /root/not-there");
    assert_eq!(all, "[user]\nname = other\ntwo-of-the-guest\nthere now");
    let shown = synced.ok(&["vm", "show", "synced"]).stdout;
    assert!(shown.contains("was changed in the guest"), "{shown}");
    synced.ok(&["vm", "delete", "synced"]);
}

#[test]
fn a_path_that_lies_elsewhere_stops_nothing_but_the_daemon_and_says_where() {
    let synced = Synced::new();
    for (entry, told) in [
        (
            "host = \"/etc/shadow\"\nguest = \"~/x\"",
            "line 2: file_sync[0].host",
        ),
        (
            "host = \"~/x\"\nguest = \"/etc/shadow\"",
            "line 3: file_sync[0].guest",
        ),
        ("host = \"~/../x\"\nguest = \"~/x\"", "not below your home"),
        (
            "host = \"~/x\"\nguest = \"~/x\"\nmode = \"rw\"",
            "are no permissions",
        ),
    ] {
        let text = format!("[[file_sync]]\n{entry}\n");
        fs::write(synced.0.path("config/banger/config.toml"), text).unwrap();
        synced.run(&["vm", "list"]).assert_failed(entry, 3, &[told]);
    }
}
