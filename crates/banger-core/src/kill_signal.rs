//! The signals that end a VMM.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a VMM is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum KillSignal {
    /// `SIGKILL`: at once, like pulling the plug.
    #[default]
    Kill,
    /// `SIGTERM`: the VMM closes its files first; the guest is not asked.
    Term,
}

/// A signal that no VMM is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a signal that ends a VMM: use KILL or TERM")]
pub struct ParseSignalError(String);

impl KillSignal {
    /// Its name, without `SIG`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Term => "TERM",
        }
    }
}

impl fmt::Display for KillSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KillSignal {
    type Err = ParseSignalError;

    /// Accepts `KILL`, `SIGKILL`, `kill`, `9`, and the same of `TERM`.
    fn from_str(text: &str) -> Result<Self, ParseSignalError> {
        let upper = text.to_ascii_uppercase();
        match upper.strip_prefix("SIG").unwrap_or(&upper) {
            "KILL" | "9" => Ok(Self::Kill),
            "TERM" | "15" => Ok(Self::Term),
            _ => {
                let shown = text.chars().take(20).flat_map(char::escape_default);
                Err(ParseSignalError(shown.collect()))
            }
        }
    }
}

impl TryFrom<String> for KillSignal {
    type Error = ParseSignalError;

    fn try_from(text: String) -> Result<Self, ParseSignalError> {
        text.parse()
    }
}

impl From<KillSignal> for String {
    fn from(signal: KillSignal) -> Self {
        signal.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_several_spellings() {
        for text in ["KILL", "SIGKILL", "kill", "9"] {
            assert_eq!(text.parse(), Ok(KillSignal::Kill), "{text}");
        }
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(text.parse(), Ok(KillSignal::Term), "{text}");
        }
        assert_eq!(
            serde_json::to_string(&KillSignal::Term).unwrap(),
            "\"TERM\""
        );
    }

    #[test]
    fn others_are_refused_by_name() {
        for text in ["", "SIG", "STOP", "CONT", "19", "KILL ", "\u{1b}[2J"] {
            let error = text.parse::<KillSignal>().unwrap_err().to_string();
            assert!(error.contains("KILL or TERM"), "{error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }
}
