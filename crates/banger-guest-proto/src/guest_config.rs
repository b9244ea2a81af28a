//! What a guest is told about itself before it starts.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use banger_core::{MacAddr, VmId, VmName};
use serde::{Deserialize, Serialize};

/// Why a string is no machine id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a machine id has 32 lower-case hexadecimal digits, not all of them zero")]
pub struct ParseMachineIdError;

/// A machine id as in machine-id(5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId(String);

impl MachineId {
    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id from entropy, marked as a random UUID (RFC 4122 section 4.4), as systemd does.
    #[must_use]
    pub fn from_entropy(mut entropy: [u8; 16]) -> Self {
        entropy[6] = (entropy[6] & 0x0f) | 0x40;
        entropy[8] = (entropy[8] & 0x3f) | 0x80;
        Self(entropy.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl FromStr for MachineId {
    type Err = ParseMachineIdError;

    fn from_str(text: &str) -> Result<Self, ParseMachineIdError> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let shape = text.len() == 32 && text.bytes().all(is_hex);
        if shape && text.bytes().any(|b| b != b'0') {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseMachineIdError)
        }
    }
}

impl TryFrom<String> for MachineId {
    type Error = ParseMachineIdError;

    fn try_from(text: String) -> Result<Self, ParseMachineIdError> {
        text.parse()
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.0
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key that the guest's sshd shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshHostKey {
    /// `-----BEGIN OPENSSH PRIVATE KEY-----…`, Ed25519, with its line breaks.
    pub private: String,
    /// `ssh-ed25519 AAAA… comment`, one line.
    pub public: String,
}

impl fmt::Debug for SshHostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshHostKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// The content of the config drive. The agent applies it before the image's init starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// [`GENERATION`](crate::GENERATION) of the writer.
    pub generation: u32,
    /// The VM.
    pub vm_id: VmId,
    /// Its host name; with [`domain`](Self::domain) its full name.
    pub hostname: VmName,
    /// Suffix of the names of guests, `vm`.
    pub domain: String,
    /// Written to `/etc/machine-id` when the image has none.
    pub machine_id: MachineId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix, in bits.
    pub prefix: u8,
    /// The bridge's address, its default route.
    pub gateway: Ipv4Addr,
    /// MAC address of its interface.
    pub mac: MacAddr,
    /// Name servers, best first.
    pub resolvers: Vec<Ipv4Addr>,
    /// The key that its sshd shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_host_key: Option<SshHostKey>,
    /// Public keys that may log in as root, one line each.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
    /// `uname -r` of the kernel that the modules drive belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    /// The host's clock when this was written, nanoseconds since 1970.
    pub time_unix_ns: u64,
}
