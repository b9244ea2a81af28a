//! Names in archives: bytes, cleaned the way a path from the root is.

use std::fmt;

/// The parts of a path below the root: no empty ones, no `.`, and `..` undone, never beyond the root.
pub(crate) fn clean(path: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts
}

/// A name from an archive, fit to be shown: at most 120 characters, nothing that a terminal would obey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    /// The name.
    #[must_use]
    pub fn new(name: &[u8]) -> Self {
        let text = String::from_utf8_lossy(name);
        let mut shown: String = text
            .chars()
            .take(120)
            .flat_map(char::escape_debug)
            .collect();
        if text.chars().nth(120).is_some() {
            shown.push('…');
        }
        Self(shown)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (path, parts) in [
            ("", vec![]),
            ("/", vec![]),
            ("./a//b/", vec!["a", "b"]),
            ("../../etc/passwd", vec!["etc", "passwd"]),
            ("a/../../b", vec!["b"]),
        ] {
            let clean = clean(path.as_bytes());
            let expected: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
            assert_eq!(clean, expected, "{path}");
        }
        assert_eq!(
            Shown::new(b"a\x1b[2Jb\xff").to_string(),
            "`a\\u{1b}[2Jb\u{fffd}`"
        );
    }
}
