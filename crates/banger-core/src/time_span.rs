//! Spans of time as people write them: `10s`, `2h`; 0 is off.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest span, in seconds: a hundred years.
const MOST: u64 = 100 * 366 * 86_400;

/// Why a text is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no span of time: write one like 10s, 5m, 2h or 7d, or 0 for off")]
pub struct ParseTimeSpanError {
    given: String,
}

/// A span of time; the empty one is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeSpan(Duration);

impl TimeSpan {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// The span, unless it is off.
    #[must_use]
    pub const fn on(self) -> Option<Duration> {
        if self.0.is_zero() { None } else { Some(self.0) }
    }
}

impl FromStr for TimeSpan {
    type Err = ParseTimeSpanError;

    fn from_str(text: &str) -> Result<Self, ParseTimeSpanError> {
        let fail = || ParseTimeSpanError {
            given: text
                .chars()
                .take(40)
                .flat_map(char::escape_default)
                .collect(),
        };
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| fail())?;
        let span = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60).ok_or_else(fail)?),
            "h" => Duration::from_secs(number.checked_mul(3600).ok_or_else(fail)?),
            "d" => Duration::from_secs(number.checked_mul(86_400).ok_or_else(fail)?),
            _ => return Err(fail()),
        };
        if span.as_secs() > MOST {
            return Err(fail());
        }
        Ok(Self(span))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.0.as_secs(), self.0.subsec_millis());
        match seconds {
            0 if ms == 0 => f.write_str("0"),
            _ if ms != 0 => write!(f, "{}ms", self.0.as_millis()),
            _ if seconds % 86_400 == 0 => write!(f, "{}d", seconds / 86_400),
            _ if seconds % 3600 == 0 => write!(f, "{}h", seconds / 3600),
            _ if seconds % 60 == 0 => write!(f, "{}m", seconds / 60),
            _ => write!(f, "{seconds}s"),
        }
    }
}

impl TryFrom<String> for TimeSpan {
    type Error = ParseTimeSpanError;

    fn try_from(text: String) -> Result<Self, ParseTimeSpanError> {
        text.parse()
    }
}

impl From<TimeSpan> for String {
    fn from(span: TimeSpan) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_have_a_unit_and_0_is_off() {
        for (text, seconds) in [("10s", 10), ("5m", 300), ("2h", 7200), ("7d", 604_800)] {
            assert_eq!(text.parse(), Ok(TimeSpan::seconds(seconds)));
        }
        assert_eq!("0".parse::<TimeSpan>().unwrap().on(), None);
        assert_eq!("0s".parse::<TimeSpan>().unwrap().on(), None);
        let half = "1500ms".parse::<TimeSpan>().unwrap();
        assert_eq!(half.on(), Some(Duration::from_millis(1500)));
        for bad in [
            "",
            "s",
            "10",
            "-1s",
            "1.5h",
            "1 h",
            "1w",
            "99999999999999999999s",
            "9999999999d",
        ] {
            let error = bad.parse::<TimeSpan>().unwrap_err().to_string();
            assert!(error.contains("10s"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(ms in 0_u64..10_000_000_000) {
            let span = TimeSpan(Duration::from_millis(ms));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = text.parse::<TimeSpan>();
        }
    }
}
