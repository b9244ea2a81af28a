//! How a program ended.

use std::os::fd::AsFd;

use banger_guest_proto::ExitStatus;
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// The end of the process behind a pidfd, when it has ended. It is reaped unless the options say NOWAIT.
pub(super) fn exit_status(pidfd: impl AsFd, options: WaitIdOptions) -> Option<ExitStatus> {
    let options = options | WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), options)
        .ok()
        .flatten()?;
    let byte = |number: Option<i32>| number.and_then(|n| u8::try_from(n & 0xff).ok());
    match byte(status.exit_status()) {
        Some(code) => Some(ExitStatus::Code(code)),
        None => byte(status.terminating_signal()).map(ExitStatus::Signal),
    }
}
