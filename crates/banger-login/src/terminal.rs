//! A pseudo terminal for a program.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use banger_guest_proto::TtySize;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Our end, and the path of the program's.
#[derive(Debug)]
pub struct Terminal {
    /// What is written here the program reads, and the other way.
    pub master: OwnedFd,
    /// Below `/dev/pts`.
    pub path: CString,
}

impl Terminal {
    /// A terminal of that size that no program has yet.
    ///
    /// # Errors
    /// There is no more terminal to be had, or no devpts.
    pub fn open(size: TtySize) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        let path = ptsname(&master, vec![])?;
        resize(&master, size)?;
        Ok(Self { master, path })
    }
}

/// Tells the terminal its size; the kernel sends SIGWINCH.
///
/// # Errors
/// It is no terminal.
pub fn resize(master: impl AsFd, size: TtySize) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(master, size)?)
}

/// Whether there is something to read now. Asking also makes a terminal pass on what its line discipline still holds.
#[must_use]
pub fn has_input(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    let now = Timespec::default();
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
        && fds[0].revents().contains(PollFlags::IN)
}

/// Sends a signal to the program's process group, on a terminal to the one in the foreground.
///
/// # Errors
/// There is no such group.
pub fn signal_foreground(
    program: Pid,
    terminal: Option<impl AsFd>,
    signal: Signal,
) -> Result<(), Errno> {
    let foreground = terminal.and_then(|fd| rustix::termios::tcgetpgrp(fd).ok());
    kill_process_group(foreground.unwrap_or(program), signal)
}
