//! Which Firecracker it is, and whether banger knows how to speak to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

/// A version of Firecracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirecrackerVersion {
    /// Changes when the API breaks.
    pub major: u32,
    /// Changes with what the API can do.
    pub minor: u32,
    /// Repairs.
    pub patch: u32,
}

impl FirecrackerVersion {
    /// The first that can be used: since then the console can be written to a file (`PUT /serial`).
    pub const OLDEST: Self = Self {
        major: 1,
        minor: 14,
        patch: 0,
    };
    /// The first that cannot: by its rules of versioning its API is another one.
    pub const TOO_NEW: Self = Self {
        major: 2,
        minor: 0,
        patch: 0,
    };

    /// Whether banger can use it.
    #[must_use]
    pub fn is_supported(self) -> bool {
        self >= Self::OLDEST && self < Self::TOO_NEW
    }
}

impl fmt::Display for FirecrackerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Not the version of a Firecracker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a version of Firecracker", .0.escape_default())]
pub struct ParseVersionError(String);

impl FromStr for FirecrackerVersion {
    type Err = ParseVersionError;

    /// `1.16.1`, with or without a `v` before and a suffix such as `-dev` behind.
    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let fail = || ParseVersionError(text.chars().take(40).collect());
        let numbers = text.strip_prefix('v').unwrap_or(text);
        let numbers = numbers.split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| part.parse().ok()).flatten()
        });
        let mut next = || parts.next().flatten().ok_or_else(fail);
        let version = Self {
            major: next()?,
            minor: next()?,
            patch: next()?,
        };
        match parts.next() {
            None => Ok(version),
            Some(_) => Err(fail()),
        }
    }
}

/// Why a Firecracker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FirecrackerBinaryError {
    /// It is not there.
    #[error("there is no Firecracker at {}", .0.display())]
    Missing(PathBuf),
    /// It cannot be run.
    #[error("{} cannot be run", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no Firecracker: `--version` says `{said}`", path.display())]
    Other {
        /// The program.
        path: PathBuf,
        /// The start of its output.
        said: String,
    },
    /// It is of another age.
    #[error(
        "{} is Firecracker {version}; banger uses {} and later, before {}", path.display(),
        FirecrackerVersion::OLDEST, FirecrackerVersion::TOO_NEW
    )]
    Version {
        /// The program.
        path: PathBuf,
        /// What it is.
        version: FirecrackerVersion,
    },
}

/// Asks a program whether it is a Firecracker that banger can use. Runs it once, with `--version`.
///
/// # Errors
/// It is missing, something else, or too old or new.
pub fn probe_firecracker(path: &Path) -> Result<FirecrackerVersion, FirecrackerBinaryError> {
    let mut command = Command::new(path);
    command.arg("--version").env_clear().stdin(Stdio::null());
    let output = command.output().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => FirecrackerBinaryError::Missing(path.to_owned()),
        _ => FirecrackerBinaryError::Run {
            path: path.to_owned(),
            source,
        },
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(version) = announced(&said) else {
        return Err(FirecrackerBinaryError::Other {
            path: path.to_owned(),
            said: said
                .chars()
                .take(80)
                .collect::<String>()
                .escape_default()
                .to_string(),
        });
    };
    if version.is_supported() {
        return Ok(version);
    }
    Err(FirecrackerBinaryError::Version {
        path: path.to_owned(),
        version,
    })
}

/// The version in the output of `--version`.
fn announced(said: &str) -> Option<FirecrackerVersion> {
    let rest = said.lines().next()?.strip_prefix("Firecracker ")?;
    rest.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn version(text: &str) -> FirecrackerVersion {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version("v1.16.1").to_string(), "1.16.1");
        assert_eq!(version("1.17.0-dev"), version("1.17.0"));
        assert!(version("1.9.0") < version("1.10.0"));
        for bad in [
            "",
            "v",
            "1",
            "1.16",
            "1.16.1.2",
            "1.-6.1",
            "a.b.c",
            "1.16.99999999999",
        ] {
            assert!(bad.parse::<FirecrackerVersion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_range_is_from_1_14_to_2() {
        for good in ["1.14.0", "1.16.1", "1.99.0"] {
            assert!(version(good).is_supported(), "{good}");
        }
        for bad in ["0.25.2", "1.13.9", "2.0.0", "3.1.0"] {
            assert!(!version(bad).is_supported(), "{bad}");
        }
    }

    /// A program that prints something; a script, for what it is asked is `--version` alone.
    fn program(dir: &Path, name: &str, prints: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\nprintf '%s\\n' '{prints}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn what_cannot_be_used_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let probe =
            |name: &str, prints: &str| probe_firecracker(&program(dir.path(), name, prints));
        assert_eq!(
            probe("good", "Firecracker v1.16.1").unwrap(),
            version("1.16.1")
        );
        let old = probe("old", "Firecracker v1.7.0").unwrap_err();
        assert!(matches!(old, FirecrackerBinaryError::Version { .. }));
        assert!(
            old.to_string()
                .contains("1.7.0; banger uses 1.14.0 and later, before 2.0.0")
        );
        let other = probe("other", "QEMU emulator").unwrap_err();
        assert!(
            matches!(other, FirecrackerBinaryError::Other { .. }),
            "{other}"
        );
        let missing = probe_firecracker(&dir.path().join("missing")).unwrap_err();
        assert!(matches!(missing, FirecrackerBinaryError::Missing(_)));
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "text").unwrap();
        let plain = probe_firecracker(&plain).unwrap_err();
        assert!(matches!(plain, FirecrackerBinaryError::Run { .. }));
    }
}
