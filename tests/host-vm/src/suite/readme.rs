//! From nothing to a guest's output by the README's commands, offline.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Length, Test, leaks};
use crate::host::{Host, User};

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    vec![Test::new(
        "readme/fresh-install-to-uname-offline",
        Length::Whole,
        fresh,
    )]
}

/// What is taken from the README; the first stands in `Host::install`, with a Firecracker when there is one.
const COMMANDS: &[&str] = &[
    "$ sudo ./target/release/banger system install --owner \"$USER\"",
    "$ banger doctor",
    "$ banger system status",
    "$ banger vm run --rm -- ",
];

fn fresh(host: &Host) -> Result<()> {
    let readme = host.dev("cat ~/checkout/README.md")?;
    for command in COMMANDS {
        ensure!(readme.contains(command), "the README has no `{command}`");
    }
    host.dev("sudo banger system uninstall --purge && rm -rf ~/.config/banger ~/.cache/banger")?;
    let left =
        host.root("ls -d /var/lib/banger /var/cache/banger /etc/banger 2>/dev/null || true")?;
    ensure!(left.is_empty(), "purged, and still there: {left}");

    host.install()?;
    // Makes the default image from packages and the kernel from its package.
    let long = Duration::from_secs(1500);
    let run = host.run_within(User::Dev, "banger vm run --rm -- uname -r", long)?;
    ensure!(
        run.code == 0 && run.stdout.trim_end().ends_with("-cloud-amd64"),
        "{}",
        run.describe()
    );
    for line in run.stderr.lines().filter(|line| line.contains(" s")) {
        println!("        {}", line.trim());
    }
    // Now that image and kernel are there: nothing is even warned about.
    let doctor = host.json(&["doctor"])?;
    let checks = doctor["checks"].as_array().cloned().unwrap_or_default();
    let other: Vec<_> = checks
        .iter()
        .filter(|check| check["result"] != "pass")
        .collect();
    ensure!(
        !checks.is_empty() && other.is_empty(),
        "not all pass: {other:#?}"
    );
    let sockets = host
        .root("stat -c '%a %U' /run/banger/bangerd.sock /run/banger-root/installed/helper.sock")?;
    ensure!(
        sockets == "600 dev\n600 dev",
        "who may connect to the sockets: {sockets}"
    );
    host.banger(&["system", "status"])?.ok()?;
    // Daily commands need no sudo, and are the owner's alone.
    let stranger = host.root("su stranger -s /bin/sh -c 'banger vm list' 2>&1; echo code $?")?;
    ensure!(
        !stranger.ends_with("code 0"),
        "a stranger is served: {stranger}"
    );
    leaks::nothing_runs(host)?;
    host.take_along("images/debian-minimal")
}
