//! What the compiler cannot check: closing what was inherited, and waiting for a signal.
#![expect(
    unsafe_code,
    reason = "close_range(2) and sigwait(3) have no safe form here"
)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// The signals that end the helper.
pub(crate) struct Signals(libc::sigset_t);

/// Closes every descriptor but the standard ones, and gives the first after them when `keep` says that it was
/// passed on to us. Call it once, before anything is opened.
pub(crate) fn close_inherited(keep: bool) -> Option<OwnedFd> {
    // SAFETY: nothing in this process has opened a descriptor yet, so none of these is owned by a
    // value that would use or close it later.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32 + u32::from(keep),
            u32::MAX,
            0_u32,
        )
    };
    // SAFETY: fcntl only looks at and changes a flag of a descriptor that no value owns.
    let passed = keep && unsafe { libc::fcntl(3, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    // SAFETY: it is open, as fcntl(2) just said, and nothing else owns it.
    passed.then(|| unsafe { OwnedFd::from_raw_fd(3) })
}

impl Signals {
    /// Blocks them in this thread and those that it starts from now on.
    pub(crate) fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set before it is used; the rest only reads it or
        // adds valid signal numbers to it.
        let (result, set) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            let result = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            (result, set.assume_init())
        };
        match result {
            0 => Ok(Self(set)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Waits for the first of them.
    pub(crate) fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are to live values of the right type.
        while unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } != 0 {}
    }
}
