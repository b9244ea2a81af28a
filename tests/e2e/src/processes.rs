//! The machine's processes, and time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// The processes of that program, when it is the file of this build.
fn running(program: &Path) -> Vec<Pid> {
    let mut found = vec![];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let exe = fs::read_link(entry.path().join("exe"));
        if exe.is_ok_and(|exe| exe == program) {
            found.extend(pid.and_then(Pid::from_raw));
        }
    }
    found
}

/// Kills every process of these programs; true when there was one.
pub(crate) fn kill_all(programs: &[PathBuf]) -> bool {
    let pids = programs.iter().flat_map(|program| running(program));
    // Counted: `any` would leave the rest alive.
    pids.filter(|pid| kill_process(*pid, Signal::KILL).is_ok())
        .count()
        > 0
}

/// Ids and command lines of all.
pub(crate) fn command_lines() -> Vec<(String, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let line = |entry: fs::DirEntry| {
        // Not `self`, which is one of them by another name.
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        Some((pid.to_string(), line))
    };
    entries.filter_map(line).collect()
}

/// The ids of this process and of those that it descends from.
pub(crate) fn lineage() -> Vec<String> {
    let parent = |pid: &String| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        line.map(|pid| pid.trim().to_owned())
    };
    std::iter::successors(Some(std::process::id().to_string()), parent).collect()
}

/// Waits that long: of something that is random by design, not for something to happen.
pub(crate) fn pause(time: Duration) {
    let time = rustix::time::Timespec::try_from(time).expect("short");
    let _ = rustix::event::poll(&mut [], Some(&time));
}
