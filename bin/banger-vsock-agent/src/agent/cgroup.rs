//! A control group for clients' programs, apart from the image's own.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

/// Where systemd has put process 1, and with it the agent, once it has set up the hierarchy
/// (cgroups(7), version 2).
const INIT: &str = "/sys/fs/cgroup/init.scope";

/// The agent's own, and by inheritance that of every program it starts.
const OURS: &str = "/sys/fs/cgroup/banger";

/// Below which each session has one of its own.
const SESSIONS: &str = "0::/banger.sessions/";

/// Whether the move is done.
static MOVED: Mutex<bool> = Mutex::new(false);

/// Moves the agent there, as soon as the image's init has set up the hierarchy. Done once, and not
/// for each program: a move waits for the whole system to come to rest, inheriting costs nothing.
pub(super) fn enter() {
    let Ok(mut moved) = MOVED.lock() else { return };
    if *moved || !Path::new(INIT).exists() {
        return;
    }
    let _ = fs::create_dir(OURS);
    *moved = fs::write(format!("{OURS}/cgroup.procs"), "0").is_ok();
}

/// Whether a process with this `/proc/PID/cgroup` descends from a client's program: in our group, or
/// started before there was one.
pub(super) fn is_ours(group: &str) -> bool {
    let group = group.trim_end();
    matches!(group, "0::/banger" | "0::/init.scope" | "0::/") || group.starts_with(SESSIONS)
}
