//! The few lines that go to the console.

use rustix::fs::{Mode, OFlags};

/// Writes a line to standard error (the console, early in a boot); nobody can be told of a failure.
pub(crate) fn complain(line: &str) {
    let line = format!("banger: {line}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

/// Writes a line to the console and waits until it is out: what comes next may be a reset.
pub(crate) fn say_and_drain(line: &str) {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    for path in ["/dev/console", "/dev/ttyS0"] {
        let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else {
            continue;
        };
        // On a line of its own, whatever was written before.
        let text = format!("\r\n{line}\r\n");
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(&fd, rest) {
                Ok(count) => rest = &rest[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        let _ = rustix::termios::tcdrain(&fd);
        if rest.is_empty() {
            return;
        }
    }
}
