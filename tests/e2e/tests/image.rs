//! The default image as it was built: nothing of the host that built it, and owned as Debian means it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_e2e::Banger;
use banger_image::{HostTraces, leaks};

fn rootfs(banger: &Banger) -> PathBuf {
    let image = banger.json(&["image", "show", "debian-bookworm"]);
    image["rootfs"].as_str().unwrap().into()
}

/// What debugfs(8) says to a request; the file system is not mounted.
fn debugfs(image: &Path, request: &str) -> String {
    let mut command = Command::new("/usr/sbin/debugfs");
    command.args(["-R", request]).arg(image);
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

#[test]
fn nothing_of_the_build_host_is_in_it() {
    let banger = Banger::from_env();
    let image = rootfs(&banger);
    let dir = tempfile::tempdir().unwrap();
    for folder in ["etc", "root", "home"] {
        debugfs(&image, &format!("rdump /{folder} {}", dir.path().display()));
    }
    let etc = dir.path().join("etc");
    assert!(etc.join("passwd").is_file(), "it could not be read");
    let traces = HostTraces::of_this_host();
    assert_eq!(leaks(dir.path(), &traces), Vec::<String>::new());
    assert_eq!(fs::read_to_string(etc.join("machine-id")).unwrap(), "");
    let shadow = fs::read_to_string(etc.join("shadow")).unwrap();
    let root = shadow.lines().find(|line| line.starts_with("root:"));
    assert!(root.is_some_and(|line| line.starts_with("root:*") || line.starts_with("root:!")));
    for apt in fs::read_dir(etc.join("apt/apt.conf.d")).unwrap() {
        let text = fs::read_to_string(apt.unwrap().path()).unwrap();
        assert!(!text.to_lowercase().contains("proxy"), "{text}");
    }
    for folder in [
        "/var/lib/apt/lists",
        "/var/cache/apt/archives",
        "/tmp",
        "/var/tmp",
    ] {
        let names = debugfs(&image, &format!("ls -p {folder}"));
        let names: Vec<&str> = names
            .lines()
            .filter_map(|line| line.split('/').nth(5))
            .collect();
        let left: Vec<&&str> = names
            .iter()
            .filter(|name| !["", ".", "..", "partial", "lock"].contains(*name))
            .collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
    // And not one of these texts in any block of it.
    let hostname = rustix::system::uname();
    let mut texts = traces.texts;
    let name = hostname.nodename().to_string_lossy().into_owned();
    texts.extend(Some(name).filter(|name| name.len() >= 8));
    texts.sort();
    texts.dedup();
    assert!(
        !texts.is_empty(),
        "this host has neither name nor machine-id"
    );
    for text in &texts {
        let mut grep = Command::new("grep");
        let found = grep.args(["-a", "-c", "-F", "-e", text]).arg(&image);
        let found = found.output().unwrap();
        assert_eq!(found.status.code(), Some(1), "`{text}` is in the image");
    }
}

#[test]
fn owners_and_modes_are_debians() {
    let image = rootfs(&Banger::from_env());
    for (path, mode, user, group) in [
        ("/etc/passwd", "0644", 0, 0),
        ("/etc/shadow", "0640", 0, 42),
        ("/usr/bin/sudo", "04755", 0, 0),
        ("/usr/bin/passwd", "04755", 0, 0),
        ("/tmp", "01777", 0, 0),
        ("/root", "0700", 0, 0),
        ("/var/mail", "02775", 0, 8),
    ] {
        let stat = debugfs(&image, &format!("stat {path}"));
        let words: Vec<&str> = stat.split_whitespace().collect();
        let after = |key: &str| {
            let at = words.iter().position(|word| *word == key);
            at.and_then(|at| words.get(at + 1)).copied()
        };
        let found = (after("Mode:"), after("User:"), after("Group:"));
        let (user, group) = (format!("{user}"), format!("{group}"));
        let wanted = (Some(mode), Some(user.as_str()), Some(group.as_str()));
        assert_eq!(found, wanted, "{path}: {stat}");
    }
}
