//! The network's links.

use std::fs;

/// Names of the links in the network namespace that this program runs in. From proc_net(5): `/sys/class/net` shows
/// those of the namespace in which it was mounted.
///
/// # Panics
/// When the kernel does not say.
#[must_use]
pub fn links() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/net/dev").expect("the kernel's links");
    let lines = text.lines().skip(2);
    lines
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}
