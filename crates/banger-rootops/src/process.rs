//! Which process is which: by pidfd, start time, boot and executable (proc(5)).

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use banger_root_proto::{ProcessIdentity, ProcessState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// This boot's id.
pub(crate) fn boot_id() -> Result<String, std::io::Error> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// A live process that is ours.
#[derive(Debug)]
pub(crate) struct Alive {
    pub(crate) identity: ProcessIdentity,
    pub(crate) pidfd: OwnedFd,
    /// Whether a signal has stopped it.
    pub(crate) is_stopped: bool,
}

/// What has become of it, for the reply.
pub(crate) fn state(alive: Option<&Alive>) -> ProcessState {
    match alive {
        Some(alive) => ProcessState::Alive(alive.identity.clone()),
        None => ProcessState::Gone {},
    }
}

/// The process, when it still is the one that was launched and has not ended.
pub(crate) fn probe(identity: &ProcessIdentity) -> Option<Alive> {
    // The pidfd comes first: when what follows fits, it is the pidfd of that very process.
    let pidfd = open_pidfd(identity.pid)?;
    let (state, start_ticks) = read_stat(identity.pid)?;
    let ended = matches!(state, 'Z' | 'X' | 'x');
    if ended || start_ticks != identity.start_ticks {
        return None;
    }
    let exe = fs::metadata(format!("/proc/{}/exe", identity.pid)).ok()?;
    let same = (exe.dev(), exe.ino()) == (identity.exe_dev, identity.exe_ino);
    let same_boot = boot_id().is_ok_and(|boot| boot == identity.boot_id);
    (same && same_boot).then(|| Alive {
        identity: identity.clone(),
        pidfd,
        is_stopped: state == 'T',
    })
}

/// The identity of a process that was just started from `program` (and may have ended already).
pub(crate) fn identify(pid: u32, program: &Path) -> Result<ProcessIdentity, std::io::Error> {
    let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let (_, start_ticks) = read_stat(pid).ok_or_else(gone)?;
    let exe = fs::metadata(format!("/proc/{pid}/exe")).or_else(|_| fs::metadata(program))?;
    Ok(ProcessIdentity {
        pid,
        start_ticks,
        boot_id: boot_id()?,
        exe_dev: exe.dev(),
        exe_ino: exe.ino(),
    })
}

/// Whether a process runs this program.
pub(crate) fn runs(pid: u32, program: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let running = inode(Path::new(&format!("/proc/{pid}/exe")));
    running.is_some() && running == inode(program)
}

/// The pidfd of a process number.
pub(crate) fn open_pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// State and start time from `/proc/<pid>/stat`.
fn read_stat(pid: u32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in the second field may hold anything, so counting starts at its last bracket.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The processes that run as `uid`, zombies left out.
pub(crate) fn running_as(uid: u32) -> Vec<u32> {
    processes()
        .filter(|(_, uids)| uids.contains(&uid))
        .map(|(pid, _)| pid)
        .collect()
}

/// Every user id that some live process has.
pub(crate) fn uids_in_use() -> BTreeSet<u32> {
    processes().flat_map(|(_, uids)| uids).collect()
}

fn processes() -> impl Iterator<Item = (u32, Vec<u32>)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
        if field("State:")?.trim_start().starts_with('Z') {
            return None;
        }
        let uids = field("Uid:")?.split_ascii_whitespace();
        Some((pid, uids.filter_map(|uid| uid.parse().ok()).collect()))
    })
}

/// Kills everything that runs as `uid` and waits until it has ended. False when the deadline came
/// first.
pub(crate) fn end_all(uid: u32, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let pidfds: Vec<OwnedFd> = running_as(uid)
            .into_iter()
            .filter_map(|pid| {
                let pidfd = open_pidfd(pid)?;
                // The number may have passed to another process since it was read.
                running_uid(pid)
                    .is_some_and(|now| now == uid)
                    .then_some(pidfd)
            })
            .collect();
        if pidfds.is_empty() {
            return true;
        }
        for pidfd in &pidfds {
            // One that has ended meanwhile is what we want.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        for pidfd in &pidfds {
            if !wait_end(pidfd, deadline) {
                return false;
            }
        }
    }
}

/// Whether a process runs as that user. Ask while its pidfd is held.
pub(crate) fn runs_as(pid: u32, uid: u32) -> bool {
    running_uid(pid) == Some(uid)
}

fn running_uid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_ascii_whitespace().next()?.parse().ok()
}

/// Waits for the end of a process (a pidfd becomes readable then, pidfd_open(2)).
fn wait_end(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let text = "7 (a) R 1 (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(parse_stat(text), Some(('S', 4242)));
        assert_eq!(parse_stat("7 no bracket"), None);
        assert_eq!(parse_stat("7 (x) S 1"), None);
    }

    #[test]
    fn a_process_is_itself_until_it_ends() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let identity = identify(child.id(), Path::new("/bin/cat")).unwrap();
        assert!(probe(&identity).is_some());
        let stands = |stopped| {
            let signal = if stopped { Signal::STOP } else { Signal::CONT };
            pidfd_send_signal(open_pidfd(identity.pid).unwrap(), signal).unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            while probe(&identity).unwrap().is_stopped != stopped {
                assert!(Instant::now() < deadline, "never {signal:?}");
                std::thread::yield_now();
            }
        };
        stands(true);
        stands(false);
        let later = ProcessIdentity {
            start_ticks: identity.start_ticks + 1,
            ..identity.clone()
        };
        assert!(probe(&later).is_none());
        let other = ProcessIdentity {
            exe_ino: identity.exe_ino + 1,
            ..identity.clone()
        };
        assert!(probe(&other).is_none());
        let rebooted = ProcessIdentity {
            boot_id: "x".into(),
            ..identity.clone()
        };
        assert!(probe(&rebooted).is_none());
        let pidfd = open_pidfd(identity.pid).unwrap();
        drop(child.stdin.take());
        assert!(wait_end(&pidfd, Instant::now() + Duration::from_secs(10)));
        assert!(probe(&identity).is_none(), "a zombie counts as gone");
        child.wait().unwrap();
        assert!(probe(&identity).is_none());
    }
}
