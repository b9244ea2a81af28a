//! The machine's processes, and time.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Pid;

/// The processes of that program, when it is the file of this build.
pub(crate) fn running(program: &Path) -> Vec<Pid> {
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

/// Ids and command lines of all.
pub(crate) fn command_lines() -> Vec<(String, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let line = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        Some((entry.file_name().to_string_lossy().into_owned(), line))
    };
    entries.filter_map(line).collect()
}

/// Waits that long: of something that is random by design, not for something to happen.
pub(crate) fn pause(time: Duration) {
    let time = rustix::time::Timespec::try_from(time).expect("short");
    let _ = rustix::event::poll(&mut [], Some(&time));
}
