//! PAX extended headers: `length key=value` lines.

use banger_ext4::Time;

use super::TarError;
use super::sparse::{self, Segment};

const XATTR: &[u8] = b"SCHILY.xattr.";

/// What such a header says, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Time>,
    pub(crate) atime: Option<Time>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse_name: Option<Vec<u8>>,
    pub(crate) sparse_size: Option<u64>,
    sparse_major: Option<u64>,
    /// Offsets and lengths, by turns.
    sparse_numbers: Vec<u64>,
}

impl Records {
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self, TarError> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ');
            let space = space.ok_or(TarError::Pax("a record without a length"))?;
            let length = decimal(&bytes[..space])?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(TarError::Pax("a record of another length than it says"));
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=');
            let equals = equals.ok_or(TarError::Pax("a record without a value"))?;
            records.take(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        // An empty value takes an earlier one back, except for attributes, which may be empty.
        let is_empty = value.is_empty();
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = optional(value, decimal)?,
            b"uid" => self.uid = optional(value, decimal)?,
            b"gid" => self.gid = optional(value, decimal)?,
            b"mtime" => self.mtime = optional(value, time)?,
            b"atime" => self.atime = optional(value, time)?,
            b"GNU.sparse.name" => self.sparse_name = name(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse_size = optional(value, decimal)?;
            }
            b"GNU.sparse.major" => self.sparse_major = optional(value, decimal)?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" if !is_empty => {
                let is_offset = key.ends_with(b"offset");
                if self.sparse_numbers.len() % 2 != usize::from(!is_offset) {
                    return Err(TarError::Sparse("offsets and lengths do not take turns"));
                }
                self.sparse_numbers.push(decimal(value)?);
            }
            b"GNU.sparse.map" if !is_empty => {
                let numbers = value.split(|byte| *byte == b',').map(decimal);
                self.sparse_numbers = numbers.collect::<Result<_, _>>()?;
            }
            _ => {
                if let Some(attribute) = key.strip_prefix(XATTR) {
                    if attribute.is_empty() || attribute.contains(&0) {
                        return Err(TarError::Pax("an attribute without a proper name"));
                    }
                    self.xattrs.retain(|(known, _)| known != attribute);
                    self.xattrs.push((attribute.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn has_sparse_map_in_content(&self) -> bool {
        self.sparse_major == Some(1)
    }

    /// The map of versions 0.0 and 0.1.
    pub(crate) fn sparse_map(&self) -> Result<Option<Vec<Segment>>, TarError> {
        if self.sparse_numbers.is_empty() {
            return Ok(None);
        }
        sparse::pairs(&self.sparse_numbers).map(Some)
    }
}

fn optional<T>(
    value: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, TarError>,
) -> Result<Option<T>, TarError> {
    if value.is_empty() {
        return Ok(None);
    }
    parse(value).map(Some)
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>, TarError> {
    if value.contains(&0) {
        return Err(TarError::Pax("a name has a zero byte"));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

pub(crate) fn decimal(text: &[u8]) -> Result<u64, TarError> {
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    // A signed number would be parsed, too.
    number
        .filter(|_| text[0].is_ascii_digit())
        .filter(|number| i64::try_from(*number).is_ok())
        .ok_or(TarError::Pax("a number that is none"))
}

/// Seconds, with up to nine digits behind the point that count.
fn time(text: &[u8]) -> Result<Time, TarError> {
    let malformed = || TarError::Pax("a time that is none");
    let text = std::str::from_utf8(text).map_err(|_| malformed())?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return Err(malformed());
    }
    let seconds: i64 = whole.parse().map_err(|_| malformed())?;
    let nine: String = fraction
        .chars()
        .chain(std::iter::repeat('0'))
        .take(9)
        .collect();
    let nanoseconds: u32 = nine.parse().map_err(|_| malformed())?;
    Ok(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let at = |text: &str| {
            time(text.as_bytes())
                .map(|t| (t.seconds, t.nanoseconds))
                .ok()
        };
        assert_eq!(at("12"), Some((12, 0)));
        assert_eq!(at("12.5"), Some((12, 500_000_000)));
        assert_eq!(at("12.0000000019"), Some((12, 1)));
        assert_eq!(at("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(at("-0.0"), Some((0, 0)));
        for bad in ["", "-", ".5", "1e3", "1.-5", "99999999999999999999"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            "x",
            "5",
            "4 a\n",
            "99 a=b\n",
            "7 a=bcd",
            "0 a=b\n",
            "3 a",
            "-5 a=\n",
            "13 size=-12\n\n",
        ] {
            assert!(Records::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let records = Records::parse(b"9 path=x\n8 path=\n9 uid=70\n").unwrap();
        assert_eq!((records.path, records.uid), (None, Some(70)));
    }
}
