//! Where and how the host fails.

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailMode {
    /// It answers with an error and changes nothing.
    Error,
    /// The daemon dies before the call has an effect.
    CrashBefore,
    /// The daemon dies after the call's effect, before it hears of it.
    CrashAfter,
}

impl FailMode {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Error, Self::CrashBefore, Self::CrashAfter];
}

/// The call that fails: the `at`-th that changes something, counted from where it was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failpoint {
    /// Which call, from 0.
    pub at: usize,
    /// How.
    pub mode: FailMode,
}
