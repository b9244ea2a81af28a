//! Identifiers: VM, operation, content digest, and the kernel-visible names derived from them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a valid {what}: expected {expected}")]
pub struct ParseIdError {
    what: &'static str,
    expected: &'static str,
    given: String,
}

/// Generates a newtype over a fixed-length lower-case hexadecimal string.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Makes an identifier from the first bytes of `entropy`.
            ///
            /// # Panics
            /// Never for the lengths in this file: the array is long enough by type.
            #[must_use]
            pub fn from_entropy(entropy: [u8; $len / 2]) -> Self {
                Self(entropy.iter().map(|byte| format!("{byte:02x}")).collect())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == $len && text.bytes().all(is_hex) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(ParseIdError {
                        what: $what,
                        expected: $expected,
                        given: text.chars().take(80).collect(),
                    })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
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

hex_id!(
    /// A VM's identity for life. Kernel-visible names derive from it, so that an orphan can be
    /// found without the database.
    VmId, 12, "VM id", "12 lower-case hexadecimal digits"
);
hex_id!(
    /// An operation (create, build, …), so that a client can come back to it.
    OpId, 12, "operation id", "12 lower-case hexadecimal digits"
);
hex_id!(
    /// The SHA-256 of some content.
    Digest, 64, "digest", "64 lower-case hexadecimal digits"
);

impl Digest {
    /// The digest with these bytes.
    #[must_use]
    pub fn of_sha256(hash: [u8; 32]) -> Self {
        Self::from_entropy(hash)
    }

    /// The first twelve digits: enough to tell artefacts apart in a table.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl VmId {
    /// The MAC address of this VM's only network interface: locally administered, unicast.
    #[must_use]
    pub fn mac(&self) -> crate::MacAddr {
        let byte = |at: usize| u8::from_str_radix(&self.0[at..at + 2], 16).unwrap_or_default();
        crate::MacAddr([0x06, byte(0), byte(2), byte(4), byte(6), byte(8)])
    }
}

/// The name of a VM's tap device: `bgr` and the VM id, 15 bytes, which is the kernel's limit
/// (`IFNAMSIZ` - 1, netdevice(7)).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TapName(String);

impl TapName {
    /// What every tap of banger's starts with.
    pub const PREFIX: &'static str = "bgr";

    /// The tap of this VM.
    #[must_use]
    pub fn of(vm: &VmId) -> Self {
        Self(format!("{}{vm}", Self::PREFIX))
    }

    /// Which VM a link of this name belongs to, when it is a tap of banger's.
    #[must_use]
    pub fn vm_of(link: &str) -> Option<VmId> {
        link.strip_prefix(Self::PREFIX)?.parse().ok()
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_accept_only_their_own_shape() {
        assert!("0123456789ab".parse::<VmId>().is_ok());
        for bad in [
            "",
            "0123456789a",
            "0123456789AB",
            "0123456789abc",
            "../3456789ab",
            "0123456789é",
        ] {
            assert!(bad.parse::<VmId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tap_name_fits_the_kernel_and_leads_back_to_its_vm() {
        let vm: VmId = "00ff00ff00ff".parse().unwrap();
        let tap = TapName::of(&vm);
        assert_eq!(tap.as_str().len(), 15);
        assert_eq!(TapName::vm_of(tap.as_str()), Some(vm));
        assert_eq!(TapName::vm_of("bgr-dummy"), None);
    }
}
