//! The few lines that go to the console. Nothing here waits for it for long: a console that takes nothing, as its host
//! or its driver does not, must not keep a guest from booting or ending.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

/// How long a console may take to let out what a guest says last.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one look at it waits for the next.
const STEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 2_000_000,
};

/// Writes a line to standard error; nobody can be told of a failure.
pub(crate) fn complain(line: &str) {
    let line = format!("banger: {line}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

/// Writes a line to the console, as much of it as the console takes just now.
pub(crate) fn say(line: &str) {
    if let Ok(fd) = open("/dev/console") {
        let _ = rustix::io::write(&fd, format!("banger: {line}\n").as_bytes());
    }
}

/// Writes a line to the console and waits until it is out: what comes next may be a reset. Where it does not come out,
/// the kernel is given it to write.
pub(crate) fn say_and_drain(line: &str) {
    let deadline = Instant::now() + PATIENCE;
    for path in ["/dev/console", "/dev/ttyS0"] {
        let Ok(fd) = open(path) else {
            continue;
        };
        // On a line of its own, whatever was written before.
        let text = format!("\r\n{line}\r\n");
        let mut rest = text.as_bytes();
        while !rest.is_empty() && Instant::now() < deadline {
            match rustix::io::write(&fd, rest) {
                Ok(count) => rest = &rest[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => pause(Some(&fd)),
                Err(_) => break,
            }
        }
        if rest.is_empty() && is_out(&fd, deadline) {
            return;
        }
    }
    by_the_kernel(line);
}

/// Opens something to write to that is never waited for.
fn open(path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Whether all that was written to a terminal has left it by then.
fn is_out(fd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        // Not tcdrain(3), which waits for as long as it takes: only once nothing is left for it but the last bytes,
        // which the driver waits for with a limit.
        match crate::sys::unsent_bytes(fd.as_fd()) {
            Ok(0) => return rustix::termios::tcdrain(fd).is_ok(),
            Ok(_) if Instant::now() < deadline => pause(None),
            Ok(_) => return false,
            // No terminal: it has nowhere to keep anything.
            Err(_) => return true,
        }
    }
}

fn pause(until_writable: Option<&OwnedFd>) {
    let mut fds: Vec<_> = until_writable
        .map(|fd| PollFd::new(fd, PollFlags::OUT))
        .into_iter()
        .collect();
    let _ = rustix::event::poll(&mut fds, Some(&STEP));
}

/// Has the kernel say a line on the console, as an error (`Documentation/ABI/testing/dev-kmsg`): it writes by itself,
/// without waiting to be told that it may.
pub(crate) fn by_the_kernel(line: &str) {
    if let Ok(fd) = open("/dev/kmsg") {
        let _ = rustix::io::write(&fd, format!("<3>{line}\n").as_bytes());
    }
}
