//! Paths on the wire: bytes, as Linux has them.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest path, in bytes (path_resolution(7): `PATH_MAX` less the final zero).
pub const MAX_PATH: usize = 4095;

/// The longest name, in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// What is no path below a folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is no path below a folder")]
pub struct BadPath {
    shown: String,
}

/// A path below some folder: names only, none of them `.`, `..` or empty. Nothing that a peer sends
/// can name something outside of that folder; links are another matter, and their follower's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Takes in what a peer sent, or what a directory listing gave.
    ///
    /// # Errors
    /// [`BadPath`] when it is absolute, empty, too long, or has a name that is none.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, BadPath> {
        let bytes = bytes.into();
        let is_name = |name: &[u8]| {
            !matches!(name, b"" | b"." | b"..") && name.len() <= MAX_NAME && !name.contains(&0)
        };
        if bytes.len() <= MAX_PATH && bytes.split(|byte| *byte == b'/').all(is_name) {
            Ok(Self(bytes))
        } else {
            Err(BadPath {
                shown: shown(&bytes),
            })
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For calls that take a path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The folder that it stands in, when that is not the uppermost, and its last name.
    #[must_use]
    pub fn split(&self) -> (Option<&[u8]>, &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (Some(&self.0[..at]), &self.0[at + 1..]),
            None => (None, &self.0),
        }
    }

    /// Its first name.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == b'/');
        &self.0[..end.unwrap_or(self.0.len())]
    }

    /// The same with another first name.
    ///
    /// # Errors
    /// [`BadPath`] when that is no name.
    pub fn with_first(&self, name: &[u8]) -> Result<Self, BadPath> {
        let mut bytes = name.to_vec();
        bytes.extend_from_slice(&self.0[self.first().len()..]);
        Self::new(bytes)
    }

    /// A name below it.
    ///
    /// # Errors
    /// [`BadPath`] when that is no name, or the whole is too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        let mut bytes = self.0.clone();
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self::new(bytes)
    }

    /// The folders that lead to it, the uppermost first.
    pub fn parents(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        ends.map(|(at, _)| &self.0[..at])
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({})", shown(&self.0))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

/// Bytes for people: what is no text, and what would steer a terminal, is escaped.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for one in chunk.valid().chars() {
            if one.is_control() {
                text.extend(one.escape_default());
            } else {
                text.push(one);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A path in the guest as a person gave it: absolute, or below `/root`; `~` is that too. In JSON bytes
/// that are no UTF-8, and `%`, are written as `%XX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WirePath(pub Vec<u8>);

impl WirePath {
    /// The path that it stands for in a guest.
    #[must_use]
    pub fn absolute(&self) -> std::path::PathBuf {
        let bytes = match self.0.as_slice() {
            b"~" => b"",
            [b'~', b'/', rest @ ..] => rest,
            bytes => bytes,
        };
        // An absolute path replaces the one that it is joined to.
        Path::new("/root").join(OsStr::from_bytes(bytes))
    }
}

impl fmt::Display for WirePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl Serialize for WirePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for chunk in self.0.utf8_chunks() {
            text.push_str(&chunk.valid().replace('%', "%25"));
            for byte in chunk.invalid() {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for WirePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = vec![];
        let mut rest = text.as_bytes();
        while let [first, after @ ..] = rest {
            rest = after;
            if *first != b'%' {
                bytes.push(*first);
                continue;
            }
            let code = rest
                .get(..2)
                .and_then(|code| std::str::from_utf8(code).ok());
            let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
            let wrong = || serde::de::Error::custom("a % without two hexadecimal digits");
            bytes.push(byte.ok_or_else(wrong)?);
            rest = &rest[2..];
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_leads_out() {
        for bad in [
            &b""[..],
            b"/",
            b"/etc",
            b"..",
            b".",
            b"a/..",
            b"../a",
            b"a/../b",
            b"a//b",
            b"a/",
            b"./a",
            b"a\0b",
            &[b'a'; 256],
            &[b'/'; 5000],
        ] {
            assert!(RelPath::new(bad).is_err(), "{}", shown(bad));
        }
        for good in [&b"a"[..], b"a/b", b"...", b"a\nb", b"\xff\xfe", b"..a/b.."] {
            assert!(RelPath::new(good).is_ok(), "{}", shown(good));
        }
    }

    #[test]
    fn parts() {
        let path = RelPath::new(*b"a/b/c").unwrap();
        assert_eq!(path.split(), (Some(&b"a/b"[..]), &b"c"[..]));
        assert_eq!(path.first(), b"a");
        assert_eq!(path.with_first(b"x").unwrap().as_bytes(), b"x/b/c");
        assert!(path.with_first(b"..").is_err());
        assert_eq!(path.parents().collect::<Vec<_>>(), [&b"a"[..], b"a/b"]);
        assert_eq!(shown(b"a\x1b[2J\xffb"), "a\\u{1b}[2J\\xffb");
    }

    #[test]
    fn homes() {
        for (given, means) in [
            ("", "/root/"),
            ("x", "/root/x"),
            ("~/x", "/root/x"),
            ("~", "/root/"),
            ("/x", "/x"),
        ] {
            assert_eq!(WirePath(given.into()).absolute(), Path::new(means));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive_json(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let json = serde_json::to_string(&WirePath(bytes.clone())).unwrap();
            let back: WirePath = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(back.0, bytes);
        }

        #[test]
        fn an_accepted_path_stays_below(bytes in "[a./]{0,12}") {
            if let Ok(path) = RelPath::new(bytes) {
                let mut depth = 0_i32;
                for part in path.as_path().components() {
                    match part {
                        std::path::Component::Normal(_) => depth += 1,
                        _ => depth -= 100,
                    }
                    prop_assert!(depth > 0);
                }
            }
        }
    }
}
