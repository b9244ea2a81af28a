//! Which program runs a VM, and what its root disk is kept in. Chosen when the VM is made, and kept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The program that runs a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmmKind {
    /// Firecracker, on KVM.
    Firecracker,
    /// QEMU's `microvm` machine. The default is what a VM of a database that does not say runs on.
    #[default]
    Qemu,
}

impl VmmKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Firecracker, Self::Qemu];

    /// The word in JSON, configuration and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        }
    }
}

/// What a VM's root disk is kept in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootStorage {
    /// A store of changed blocks that device-mapper lays over the image.
    DmSnapshot,
    /// A copy that shares its blocks with the image, on file systems that can.
    Reflink,
    /// An overlay over the image, of QEMU's own format. The default is what a VM of a database that
    /// does not say has.
    #[default]
    Qcow2,
    /// A sparse copy of the image.
    Copy,
}

impl RootStorage {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::DmSnapshot, Self::Reflink, Self::Qcow2, Self::Copy];

    /// The word in JSON, configuration and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DmSnapshot => "dm_snapshot",
            Self::Reflink => "reflink",
            Self::Qcow2 => "qcow2",
            Self::Copy => "copy",
        }
    }

    /// The file in the VM's folder.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::DmSnapshot => "root.cow",
            Self::Qcow2 => "root.qcow2",
            Self::Reflink | Self::Copy => "root.ext4",
        }
    }

    /// Whether a VMM can use it.
    #[must_use]
    pub const fn fits(self, vmm: VmmKind) -> bool {
        !matches!((self, vmm), (Self::Qcow2, VmmKind::Firecracker))
    }
}

/// Not one of the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not one of: {known}", given.escape_default())]
pub struct ParseWordError {
    given: String,
    known: String,
}

fn parse<T: Copy>(
    text: &str,
    all: &[T],
    word: impl Fn(T) -> &'static str,
) -> Result<T, ParseWordError> {
    let found = all.iter().copied().find(|one| word(*one) == text);
    found.ok_or_else(|| ParseWordError {
        given: text.chars().take(40).collect(),
        known: all
            .iter()
            .map(|one| word(*one))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

impl FromStr for VmmKind {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        parse(text, &Self::ALL, Self::as_str)
    }
}

impl FromStr for RootStorage {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        parse(text, &Self::ALL, Self::as_str)
    }
}

/// One of them, or whichever suits the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[serde(bound(
    serialize = "T: Copy + fmt::Display",
    deserialize = "T: FromStr<Err = ParseWordError>"
))]
pub enum Choice<T> {
    /// Whichever suits the host.
    #[default]
    Auto,
    /// This one, or none.
    This(T),
}

const AUTO: &str = "auto";

impl<T: FromStr<Err = ParseWordError>> FromStr for Choice<T> {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        if text == AUTO {
            return Ok(Self::Auto);
        }
        text.parse()
            .map(Self::This)
            .map_err(|error: ParseWordError| {
                let known = format!("{AUTO}, {}", error.known);
                ParseWordError { known, ..error }
            })
    }
}

impl<T: fmt::Display> fmt::Display for Choice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str(AUTO),
            Self::This(one) => one.fmt(f),
        }
    }
}

impl<T: FromStr<Err = ParseWordError>> TryFrom<String> for Choice<T> {
    type Error = ParseWordError;

    fn try_from(text: String) -> Result<Self, ParseWordError> {
        text.parse()
    }
}

impl<T: fmt::Display> From<Choice<T>> for String {
    fn from(choice: Choice<T>) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for VmmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RootStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read_back_and_is_the_one_of_the_json() {
        for kind in VmmKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for storage in RootStorage::ALL {
            assert_eq!(storage.as_str().parse(), Ok(storage));
            assert_eq!(serde_json::to_value(storage).unwrap(), storage.as_str());
        }
        let error = "xen".parse::<VmmKind>().unwrap_err().to_string();
        assert_eq!(error, "`xen` is not one of: firecracker, qemu");
        for bad in ["", "QEMU", "qemu ", "dm-snapshot"] {
            assert!(bad.parse::<VmmKind>().is_err(), "{bad}");
            assert!(bad.parse::<RootStorage>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_choice_is_one_of_the_words_or_auto() {
        assert_eq!("auto".parse(), Ok(Choice::<VmmKind>::Auto));
        assert_eq!("qemu".parse(), Ok(Choice::This(VmmKind::Qemu)));
        let error = "".parse::<Choice<RootStorage>>().unwrap_err().to_string();
        assert_eq!(
            error,
            "`` is not one of: auto, dm_snapshot, reflink, qcow2, copy"
        );
        let json = serde_json::to_string(&Choice::This(RootStorage::Copy)).unwrap();
        assert_eq!(json, "\"copy\"");
        assert!(serde_json::from_str::<Choice<VmmKind>>("1").is_err());
    }

    #[test]
    fn only_qcow2_is_not_for_every_vmm() {
        for storage in RootStorage::ALL {
            assert!(storage.fits(VmmKind::Qemu));
            assert_eq!(
                storage.fits(VmmKind::Firecracker),
                storage != RootStorage::Qcow2
            );
        }
    }
}
