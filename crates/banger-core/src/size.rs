//! Sizes: bytes with K/M/G/T in powers of 1024, and memory in MiB.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a string is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a valid size: {why} (examples: 512M, 8G, 1T)")]
pub struct ParseSizeError {
    given: String,
    why: &'static str,
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many GiB.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The size in whole MiB, rounded down.
    #[must_use]
    pub const fn mib(self) -> u64 {
        self.0 >> 20
    }
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    /// Accepts `8G`, `8GiB`, `512m`, and a bare number of bytes.
    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        parse_scaled(text, 0).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if bytes >= 1 << shift {
                let tenths = (u128::from(bytes) * 10) >> shift;
                return match tenths % 10 {
                    0 => write!(f, "{} {unit}", tenths / 10),
                    tenth => write!(f, "{}.{tenth} {unit}", tenths / 10),
                };
            }
        }
        write!(f, "{bytes} B")
    }
}

/// Guest memory in MiB. A bare number is MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemoryMib(pub u32);

impl FromStr for MemoryMib {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let bytes = parse_scaled(text, 20)?;
        u32::try_from(bytes >> 20)
            .map(Self)
            .map_err(|_| ParseSizeError {
                given: clip(text),
                why: "it is too large",
            })
    }
}

impl fmt::Display for MemoryMib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

fn clip(text: &str) -> String {
    text.chars()
        .take(40)
        .flat_map(char::escape_default)
        .collect()
}

/// Parses `<digits><unit>`; `bare_shift` says what a number without a unit counts.
fn parse_scaled(text: &str, bare_shift: u32) -> Result<u64, ParseSizeError> {
    let fail = |why| ParseSizeError {
        given: clip(text),
        why,
    };
    let trimmed = text.trim();
    let digits_end = trimmed
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(digits_end);
    if digits.is_empty() {
        return Err(fail(if trimmed.starts_with('-') {
            "it is negative"
        } else {
            "it has no number"
        }));
    }
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" => bare_shift,
        "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(fail("its unit is not one of K, M, G, T")),
    };
    let count: u64 = digits.parse().map_err(|_| fail("it is too large"))?;
    count
        .checked_mul(1 << shift)
        .ok_or_else(|| fail("it is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_powers_of_1024() {
        assert_eq!("8G".parse(), Ok(ByteSize::gib(8)));
        assert_eq!("8 GiB".parse(), Ok(ByteSize::gib(8)));
        assert_eq!("1024".parse(), Ok(MemoryMib(1024)));
        assert_eq!("2G".parse(), Ok(MemoryMib(2048)));
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for (bad, why) in [
            ("", "no number"),
            ("-1", "negative"),
            ("1X", "unit"),
            ("99999999999999999999", "too large"),
            ("99999999T", "too large"),
        ] {
            let error = bad.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn sizes_print_as_people_say_them() {
        assert_eq!(ByteSize::gib(8).to_string(), "8 GiB");
        assert_eq!(ByteSize(1536 << 20).to_string(), "1.5 GiB");
        assert_eq!(ByteSize(12).to_string(), "12 B");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,24}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<MemoryMib>();
        }
    }
}
