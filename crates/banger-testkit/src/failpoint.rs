//! Where and how the host fails.

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailMode {
    /// It answers with an error and changes nothing.
    Error,
    /// The same, because the file system is full.
    DiskFull,
    /// The daemon dies before the call has an effect.
    CrashBefore,
    /// The daemon dies after the call's effect, before it hears of it.
    CrashAfter,
    /// It takes until [`crate::FakeHost::release`].
    Hold,
}

impl FailMode {
    /// Every way to fail.
    pub const ALL: [Self; 4] = [
        Self::Error,
        Self::DiskFull,
        Self::CrashBefore,
        Self::CrashAfter,
    ];

    /// Whether the daemon dies of it.
    #[must_use]
    pub const fn is_crash(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter)
    }
}

/// The call that fails: the `at`-th that changes something, counted from where it was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failpoint {
    /// Which call, from 0.
    pub at: usize,
    /// How.
    pub mode: FailMode,
}
