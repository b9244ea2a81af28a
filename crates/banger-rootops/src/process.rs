//! Which process is which: pid, start time, boot and executable together tell a process from a later
//! one with the same number. A zombie counts as gone.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use banger_root_proto::{ProcessIdentity, ProcessState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// This boot of the host.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// The identity of a process that runs now.
pub(crate) fn identify(pid: u32) -> io::Result<ProcessIdentity> {
    let executable = fs::metadata(format!("/proc/{pid}/exe"))?;
    let (state, start_ticks) = stat(pid)?;
    if matches!(state, b'Z' | b'X') {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the process has ended",
        ));
    }
    Ok(ProcessIdentity {
        pid,
        start_ticks,
        boot_id: boot_id()?,
        exe_dev: executable.dev(),
        exe_ino: executable.ino(),
    })
}

/// State letter and start time of `/proc/PID/stat`; the name in it may hold anything, so the fields
/// are counted from its last parenthesis.
fn stat(pid: u32) -> io::Result<(u8, u64)> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable stat"))
}

fn parse_stat(text: &[u8]) -> Option<(u8, u64)> {
    let after_name = text.iter().rposition(|b| *b == b')')? + 1;
    let rest = std::str::from_utf8(&text[after_name..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, start_ticks))
}

/// A handle on the process, if it still is the one that was launched.
pub(crate) fn open(identity: &ProcessIdentity) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(identity.pid).ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // The handle came first: what is looked at now is the process that it holds, or a gone one.
    (identify(identity.pid).ok()? == *identity).then_some(pidfd)
}

/// What has become of the process that was launched, with a handle while it lives.
pub(crate) fn probe(identity: Option<&ProcessIdentity>) -> (ProcessState, Option<OwnedFd>) {
    match identity.and_then(|identity| Some((identity, open(identity)?))) {
        Some((identity, pidfd)) => (ProcessState::Alive(identity.clone()), Some(pidfd)),
        None => (ProcessState::Gone {}, None),
    }
}

/// Sends a signal; a process that has ended is Ok.
pub(crate) fn signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(pidfd, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        result => Ok(result?),
    }
}

/// Kills and waits until it is gone.
pub(crate) fn end(pidfd: &OwnedFd) -> io::Result<()> {
    signal(pidfd, Signal::KILL)?;
    let patience = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    if poll(&mut fds, Some(&patience))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it did not end within 10 s of SIGKILL",
        ));
    }
    Ok(())
}

/// Every process of that uid: what a VMM's own uid runs, also when no identity was noted.
pub(crate) fn of_uid(uid: u32) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let is_theirs =
            |pid: i32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|m| m.uid() == uid);
        if !is_theirs(pid) {
            continue;
        }
        let Some(handle) = Pid::from_raw(pid).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok())
        else {
            continue;
        };
        if is_theirs(pid) {
            found.push(handle);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_process_is_itself_and_not_its_neighbour() {
        let me = identify(std::process::id()).unwrap();
        assert!(open(&me).is_some());
        let later = ProcessIdentity {
            start_ticks: me.start_ticks + 1,
            ..me.clone()
        };
        assert!(open(&later).is_none());
        let other_boot = ProcessIdentity {
            boot_id: "another".into(),
            ..me
        };
        assert!(open(&other_boot).is_none());
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let line = b"12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(line), Some((b'S', 4711)));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse_stat(&bytes);
        }
    }
}
