//! Deadlines and graces: a number of seconds, or a span of time with its unit.

use std::str::FromStr as _;

use banger_core::{ParseTimeSpanError, TimeSpan};

/// Why a text is no such deadline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSeconds {
    #[error(transparent)]
    Span(#[from] ParseTimeSpanError),
    #[error("longer than a day: nothing waits that long")]
    TooLong,
}

/// Whole seconds, at most a day; a part of one counts as one, so that nothing becomes 0 that was not.
pub(super) fn seconds(text: &str) -> Result<u32, NoSeconds> {
    const DAY: u32 = 86_400;
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let span = if is_plain {
        TimeSpan::from_str(&format!("{text}s"))
    } else {
        TimeSpan::from_str(text)
    };
    let Some(span) = span?.on() else { return Ok(0) };
    let whole = span.as_secs() + u64::from(span.subsec_nanos() > 0);
    match u32::try_from(whole) {
        Ok(whole) if whole <= DAY => Ok(whole),
        _ => Err(NoSeconds::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_seconds_and_units_are_heard() {
        for (text, is) in [
            ("0", 0),
            ("0s", 0),
            ("10", 10),
            ("90s", 90),
            ("2m", 120),
            ("1h", 3600),
            ("1d", 86_400),
            ("1500ms", 2),
            ("1ms", 1),
        ] {
            assert_eq!(seconds(text), Ok(is), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_told_with_an_example() {
        for text in [
            "",
            "-1",
            "1.5",
            "s",
            "10 s",
            "1w",
            "99999999999999999999",
            "\u{7}",
        ] {
            let error = seconds(text).unwrap_err().to_string();
            assert!(error.contains("10s, 5m, 2h"), "{text}: {error}");
        }
        assert_eq!(seconds("25h"), Err(NoSeconds::TooLong));
        assert_eq!(seconds("86401"), Err(NoSeconds::TooLong));
    }
}
