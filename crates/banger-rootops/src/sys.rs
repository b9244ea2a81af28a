//! The system calls that have no safe wrapper.
#![expect(
    unsafe_code,
    reason = "ioctl of /dev/net/tun, and what happens between fork and exec"
)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Opens `/dev/net/tun` attached to the tap of that name, which is made when it does not exist
/// (`Documentation/networking/tuntap.rst`).
pub(crate) fn open_tap(name: &str) -> io::Result<File> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: `ifreq` is plain data; all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let c_name = CString::new(name)?;
    for (to, from) in request.ifr_name.iter_mut().zip(c_name.as_bytes_with_nul()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open and the argument is an `ifreq`, as TUNSETIFF wants.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(tun)
}

/// Makes the tap outlive this descriptor, or not.
pub(crate) fn set_tap_persistent(tap: &File, persistent: bool) -> io::Result<()> {
    // SAFETY: the descriptor is an attached tun device; TUNSETPERSIST takes an integer.
    check(unsafe {
        libc::ioctl(
            tap.as_raw_fd(),
            libc::TUNSETPERSIST,
            libc::c_ulong::from(persistent),
        )
    })
}

/// The user that may attach to the tap.
pub(crate) fn set_tap_owner(tap: &File, uid: u32) -> io::Result<()> {
    // SAFETY: the descriptor is an attached tun device; TUNSETOWNER takes an integer.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOWNER, libc::c_ulong::from(uid)) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// What becomes of a process between fork and exec.
#[derive(Debug)]
pub(crate) struct Confinement<'a> {
    /// Its working directory.
    pub(crate) cwd: BorrowedFd<'a>,
    /// User and group id.
    pub(crate) uid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Descriptors that it gets as 3, 4, …
    pub(crate) fds: &'a [OwnedFd],
}

/// Makes `command` start confined: own session, working directory, user, no new privileges, no core
/// dumps, and exactly the given descriptors beside the standard ones.
pub(crate) fn confine(command: &mut Command, confinement: &Confinement<'_>) {
    // High numbers first, so that no descriptor is overwritten before it has been copied.
    const PARK: RawFd = 200;
    let cwd = confinement.cwd.as_raw_fd();
    let uid = confinement.uid;
    let groups = confinement.groups.clone();
    let fds: Vec<RawFd> = confinement.fds.iter().map(AsRawFd::as_raw_fd).collect();
    let setup = move || {
        // SAFETY: plain system calls that are allowed between fork and exec; nothing allocates.
        unsafe {
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            check(libc::setsid())?;
            check(libc::fchdir(cwd))?;
            for (at, fd) in (0..).zip(&fds) {
                check(libc::dup3(*fd, PARK + at, libc::O_CLOEXEC))?;
            }
            for at in 0..RawFd::try_from(fds.len()).unwrap_or(0) {
                check(libc::dup2(PARK + at, 3 + at))?;
            }
            let no_core = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            check(libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core))?;
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setresgid(uid, uid, uid))?;
            check(libc::setresuid(uid, uid, uid))?;
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        }
        Ok(())
    };
    // SAFETY: the closure only makes async-signal-safe calls on values prepared beforehand.
    unsafe { command.pre_exec(setup) };
}

/// Ended children vanish by themselves: nobody collects their status.
pub(crate) fn ignore_children() {
    // SAFETY: setting a signal's disposition to ignore has no memory effects.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}
