//! The host's git, as Ann.

use std::path::Path;
use std::process::Command;

/// Runs `git -C AT ARGS`, which must succeed, and gives its output, trimmed.
///
/// # Panics
/// When it fails; the message carries its standard error.
pub fn git(at: &Path, args: &[&str]) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(at);
    git.args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]);
    let output = git.args(args).output().expect("git runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {said}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim_end().to_owned()
}
