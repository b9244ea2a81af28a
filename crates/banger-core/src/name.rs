//! Names that people choose: VMs, images, kernels.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a string is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a valid {what}: {why}")]
pub struct ParseNameError {
    what: &'static str,
    why: &'static str,
    given: String,
}

fn reject(what: &'static str, why: &'static str, given: &str) -> ParseNameError {
    let given = given
        .chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect();
    ParseNameError { what, why, given }
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $check:path, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;

            fn from_str(text: &str) -> Result<Self, ParseNameError> {
                match $check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(why) => Err(reject($what, why, text)),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseNameError;

            fn try_from(text: String) -> Result<Self, ParseNameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_newtype!(
    /// A VM's name: one DNS label (RFC 1123 section 2.1), lower case.
    VmName, check_label, "VM name"
);
text_newtype!(
    /// The name of an image in the image store.
    ImageName, check_file_safe, "image name"
);
text_newtype!(
    /// The name of a kernel in the kernel store.
    KernelName, check_file_safe, "kernel name"
);

fn check_label(text: &str) -> Result<(), &'static str> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > 63 {
        return Err("it has more than 63 characters");
    }
    if !text.bytes().all(inner) {
        return Err("only lower-case letters, digits and inner hyphens are allowed");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("it may not start or end with a hyphen");
    }
    Ok(())
}

/// What may be a folder name in a store: no separators, no leading dot.
fn check_file_safe(text: &str) -> Result<(), &'static str> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._+".contains(&b);
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > 100 {
        return Err("it has more than 100 characters");
    }
    if !text.bytes().all(inner) {
        return Err("only lower-case letters, digits and `-._+` are allowed");
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return Err("it must start with a letter or a digit");
    }
    Ok(())
}

/// What names of builders begin with: the VMs in which images are built.
const BUILDER: &str = "image-build-";

impl VmName {
    /// The name of a builder.
    #[must_use]
    pub fn of_builder(entropy: [u8; 6]) -> Self {
        let hex: String = entropy[..3].iter().map(|b| format!("{b:02x}")).collect();
        Self(format!("{BUILDER}{hex}"))
    }

    /// Whether it is a builder's. Nobody else may take such a name, and such a VM belongs to the build that made it.
    #[must_use]
    pub fn is_of_builder(&self) -> bool {
        self.0.starts_with(BUILDER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_name_is_one_dns_label() {
        for good in ["a", "demo", "a-1", &"x".repeat(63)] {
            assert!(good.parse::<VmName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "a b",
            "ä",
            "a\0",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_store_name_cannot_leave_its_folder() {
        assert!("debian-bookworm".parse::<ImageName>().is_ok());
        assert!("6.1.0-41-cloud-amd64".parse::<KernelName>().is_ok());
        for bad in ["", "..", ".hidden", "a/b", "a\nb", "A"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_never_prints_control_bytes() {
        let error = "a\x1b[2Jb".parse::<VmName>().unwrap_err().to_string();
        assert!(!error.contains('\x1b'), "{error:?}");
    }
}
