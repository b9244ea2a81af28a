//! The life of process 1 in an image that has no init of its own: it reaps, and ends the guest when
//! it is told to.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use banger_guest_proto::ShutdownVerb;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::{farewell, sys};

/// How long processes have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// SIGRTMIN+4 and +5: power off and reboot, in systemd's numbering (systemd(1), "Signals").
pub(crate) const POWEROFF: i32 = 38;
/// See [`POWEROFF`].
pub(crate) const REBOOT: i32 = 39;

/// All that process 1 listens to. SIGUSR1, SIGUSR2 and SIGTERM are what busybox's `halt`,
/// `poweroff` and `reboot` send; SIGINT is Ctrl-Alt-Del.
const WATCHED: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPWR,
    POWEROFF,
    REBOOT,
];

/// Starts to hold back the signals, so that none is lost that comes before [`stay`].
pub(crate) fn watch() -> std::io::Result<OwnedFd> {
    sys::signal_fd(&WATCHED)
}

/// Stays until the guest ends.
pub(crate) fn stay(signals: &OwnedFd) -> ExitCode {
    loop {
        wait(signals, None);
        while let Some(number) = sys::read_signal(signals.as_fd()) {
            match number {
                libc::SIGCHLD => {}
                libc::SIGTERM | libc::SIGINT | REBOOT => return end(signals, ShutdownVerb::Reboot),
                _ => return end(signals, ShutdownVerb::Poweroff),
            }
        }
        reap();
    }
}

fn end(signals: &OwnedFd, verb: ShutdownVerb) -> ExitCode {
    let _ = rustix::process::kill_process_group(EVERYBODY, Signal::TERM);
    let deadline = Instant::now() + GRACE;
    while reap() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        wait(signals, Some(left));
        while sys::read_signal(signals.as_fd()).is_some() {}
    }
    let _ = rustix::process::kill_process_group(EVERYBODY, Signal::KILL);
    while reap() {
        wait(signals, Some(Duration::from_millis(500)));
        if sys::read_signal(signals.as_fd()).is_none() {
            break;
        }
    }
    farewell::unmount_under("/");
    farewell::end(verb)
}

/// kill(-1): every process but process 1 itself. rustix negates the group's number.
const EVERYBODY: Pid = Pid::INIT;

fn wait(signals: &OwnedFd, longest: Option<Duration>) {
    let longest = longest.and_then(|time| Timespec::try_from(time).ok());
    let mut fds = [PollFd::new(signals, PollFlags::IN)];
    let _ = rustix::event::poll(&mut fds, longest.as_ref());
}

/// Takes what has ended; whether any child is left.
fn reap() -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}
