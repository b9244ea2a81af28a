//! What a VM is: its intent and its specification.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, MemoryMib, RootStorage, VmmKind};

/// What the owner wants of a VM. Durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// It shall run.
    Running,
    /// It shall exist, and not run.
    Stopped,
    /// It shall be gone.
    Deleted,
}

impl Intent {
    /// The word in JSON and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }

    /// The intent of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Running, Self::Stopped, Self::Deleted]
            .into_iter()
            .find(|i| i.as_str() == word)
    }
}

/// Where an effective value came from; said in the `spec:` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpecOrigin {
    /// A command-line flag.
    Flag,
    /// `[vm_defaults]` in the configuration.
    Config,
    /// Derived from what the host has.
    Host,
    /// The built-in floor.
    Floor,
}

/// Where each of a VM's sizes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SpecOrigins {
    /// Virtual processors.
    pub vcpu: SpecOrigin,
    /// Memory.
    pub memory_mib: SpecOrigin,
    /// Work disk.
    pub disk_size: SpecOrigin,
}

impl From<SpecOrigin> for SpecOrigins {
    fn from(all: SpecOrigin) -> Self {
        Self {
            vcpu: all,
            memory_mib: all,
            disk_size: all,
        }
    }
}

/// What a VM is made of. Sizes are absolute, never relative to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Virtual processors.
    pub vcpu: u16,
    /// Guest memory in MiB.
    pub memory_mib: MemoryMib,
    /// Size of the work disk (`/root`).
    pub disk_size: ByteSize,
    /// Whether the guest reaches what is beyond the bridge.
    pub nat: bool,
    /// The program that runs it. Fixed when the VM is made.
    #[serde(default)]
    pub vmm: VmmKind,
    /// What its root disk is kept in. Fixed when the VM is made.
    #[serde(default)]
    pub storage: RootStorage,
}

/// Why a specification cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The number of processors is out of range.
    #[error("{given} vCPU is out of range: this host can give 1 to {max}")]
    Vcpu {
        /// What was asked.
        given: u16,
        /// What the host can give.
        max: u16,
    },
    /// The memory is out of range.
    #[error("{given} of memory is out of range: this host can give {min} to {max}")]
    Memory {
        /// What was asked.
        given: MemoryMib,
        /// The least a guest boots with.
        min: MemoryMib,
        /// What the host has.
        max: MemoryMib,
    },
    /// The work disk is out of range.
    #[error("a work disk of {given} is out of range: it can have {min} to {max}")]
    Disk {
        /// What was asked.
        given: ByteSize,
        /// The least.
        min: ByteSize,
        /// The most that ext4 with 4 KiB blocks and banger's sparse files carry.
        max: ByteSize,
    },
    /// The VMM cannot use the root disk's storage.
    #[error("{vmm} cannot use a root disk of the kind {storage}")]
    Storage {
        /// The VMM.
        vmm: VmmKind,
        /// What was asked.
        storage: RootStorage,
    },
}

impl VmSpec {
    /// The built-in floor.
    pub const FLOOR: Self = Self {
        vcpu: 2,
        memory_mib: MemoryMib(1024),
        disk_size: ByteSize::gib(8),
        nat: false,
        vmm: VmmKind::Qemu,
        storage: RootStorage::Qcow2,
    };
    /// The least memory that a guest of any image boots with.
    pub const MIN_MEMORY: MemoryMib = MemoryMib(128);
    /// The smallest work disk.
    pub const MIN_DISK: ByteSize = ByteSize(64 << 20);
    /// The largest work disk: ext4 with 4 KiB blocks stays below 16 TiB.
    pub const MAX_DISK: ByteSize = ByteSize::gib(15 << 10);

    /// Checks the specification against what the host has.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn check(&self, host_cpus: u16, host_memory: MemoryMib) -> Result<(), SpecError> {
        let max = host_cpus.clamp(1, 32);
        if self.vcpu == 0 || self.vcpu > max {
            return Err(SpecError::Vcpu {
                given: self.vcpu,
                max,
            });
        }
        if self.memory_mib < Self::MIN_MEMORY || self.memory_mib > host_memory {
            return Err(SpecError::Memory {
                given: self.memory_mib,
                min: Self::MIN_MEMORY,
                max: host_memory,
            });
        }
        if self.disk_size < Self::MIN_DISK || self.disk_size > Self::MAX_DISK {
            return Err(SpecError::Disk {
                given: self.disk_size,
                min: Self::MIN_DISK,
                max: Self::MAX_DISK,
            });
        }
        if !self.storage.fits(self.vmm) {
            return Err(SpecError::Storage {
                vmm: self.vmm,
                storage: self.storage,
            });
        }
        Ok(())
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("`{}` is not a MAC address", text.escape_default());
        let mut bytes = [0_u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(fail)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| fail())?;
        }
        if parts.next().is_some() {
            return Err(fail());
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_refused() {
        let host = (2, MemoryMib(24_000));
        let with = |change: fn(&mut VmSpec)| {
            let mut spec = VmSpec::FLOOR;
            change(&mut spec);
            spec.check(host.0, host.1)
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert!(with(|s| s.vcpu = 0).is_err());
        assert!(with(|s| s.vcpu = 3).is_err());
        assert!(with(|s| s.memory_mib = MemoryMib(0)).is_err());
        assert!(with(|s| s.memory_mib = MemoryMib(24_001)).is_err());
        assert!(with(|s| s.disk_size = ByteSize(0)).is_err());
        assert!(with(|s| s.disk_size = ByteSize(u64::MAX)).is_err());
        assert!(with(|s| s.vmm = VmmKind::Firecracker).is_err());
        assert_eq!(with(|s| s.storage = RootStorage::Copy), Ok(()));
    }

    /// Rows of databases that were written before the fields were there.
    #[test]
    fn a_spec_that_names_no_vmm_runs_in_qemu_on_qcow2() {
        let old = r#"{"vcpu":2,"memory_mib":1024,"disk_size":8589934592,"nat":false}"#;
        let spec: VmSpec = serde_json::from_str(old).unwrap();
        assert_eq!(spec, VmSpec::FLOOR);
        let unknown = old.replace("\"nat\"", "\"net\"");
        assert!(serde_json::from_str::<VmSpec>(&unknown).is_err());
    }

    #[test]
    fn mac_addresses_round_trip() {
        let mac: MacAddr = "06:00:ac:10:00:02".parse().unwrap();
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in [
            "",
            "06",
            "06:00:ac:10:00:02:03",
            "0g:00:ac:10:00:02",
            "6:0:a:1:0:2",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }
}
