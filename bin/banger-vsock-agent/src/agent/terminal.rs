//! A pseudo terminal for a program.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use banger_guest_proto::TtySize;
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// The agent's end, and the path of the program's.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) path: CString,
}

impl Terminal {
    pub(super) fn open(size: TtySize) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        let path = ptsname(&master, vec![])?;
        resize(&master, size)?;
        Ok(Self { master, path })
    }
}

/// Tells the terminal its size; the kernel sends SIGWINCH.
pub(super) fn resize(master: &OwnedFd, size: TtySize) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(master, size)?)
}
