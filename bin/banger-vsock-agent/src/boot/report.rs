//! What goes wrong in a boot.

use std::io;

/// A step without which there is no guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// A system call of that step failed.
    #[error("failed to {step}")]
    Step {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    /// The drives that every VM has did not appear.
    #[error("no {missing} drive appeared within {seconds} s (block devices: {seen})")]
    NoDrive {
        missing: &'static str,
        seconds: u64,
        seen: String,
    },
    /// The config drive cannot be used.
    #[error("failed to read the config drive")]
    Config(#[source] banger_guest_proto::ConfigDriveError),
}

impl BootError {
    pub(crate) fn step(step: &'static str, source: io::Error) -> Self {
        Self::Step { step, source }
    }
}

/// Collects what went wrong without being fatal: the guest runs without it, and says so.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: Vec<String>,
}

impl Report {
    /// Keeps the error of a step, if there is one.
    pub(crate) fn note(&mut self, step: &str, result: io::Result<()>) {
        if let Err(error) = result {
            self.problems.push(format!("failed to {step}: {error}"));
        }
    }

    /// Keeps what went wrong, a sentence.
    pub(crate) fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// Adds what another has collected.
    pub(crate) fn merge(&mut self, other: Self) {
        self.problems.extend(other.problems);
    }

    pub(crate) fn into_problems(self) -> Vec<String> {
        self.problems
    }
}
