//! How a VMM is started: values, never arguments. The helper renders the command line.

use banger_core::{MacAddr, MemoryMib};
use serde::{Deserialize, Serialize};

/// Everything about a launch that the owner decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// How instructions run.
    pub accel: Accel,
    /// Virtual processors, 1 to 32.
    pub vcpu: u16,
    /// Guest memory in MiB.
    pub memory_mib: MemoryMib,
    /// The guest kernel's command line: printable ASCII, at most 1,500 bytes.
    pub boot_args: String,
    /// The drives, in the order in which the guest sees them.
    pub drives: Vec<DriveSpec>,
    /// The guest's MAC on the VM's tap, which must exist. None: no network interface.
    pub mac: Option<MacAddr>,
    /// Whether flushes of writable drives reach the host's disk.
    pub cache: CacheMode,
}

/// How instructions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// The host's virtualisation.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// Durability of writable drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// A flush in the guest is a flush on the host.
    Writeback,
    /// Flushes are ignored: only for VMs that are thrown away.
    Unsafe,
}

/// One drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveSpec {
    /// What it is for; also its fixed name in the VMM's directory and its serial number.
    pub role: DriveRole,
    /// The format of the file.
    pub format: DriveFormat,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// What a drive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriveRole {
    /// `/`.
    Root,
    /// `/root`.
    Work,
    /// The identity the host gives to the guest.
    Config,
    /// `/lib/modules/<release>`.
    Modules,
}

impl DriveRole {
    /// Its fixed file name and serial number.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Work => "work",
            Self::Config => "config",
            Self::Modules => "modules",
        }
    }
}

/// The format of a drive's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriveFormat {
    /// The bytes of the disk.
    Raw,
    /// A qcow2 overlay over the file that follows it.
    Qcow2,
}

/// Why a launch specification is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchSpecError {
    /// vCPU count out of range.
    #[error("{0} vCPU is not within 1 to 32")]
    Vcpu(u16),
    /// Memory out of range.
    #[error("{0} of memory is not within 64 MiB to 1 TiB")]
    Memory(MemoryMib),
    /// Bad command line.
    #[error("the kernel command line is not printable ASCII of at most 1,500 bytes")]
    BootArgs,
    /// Two drives with one role.
    #[error("the drive `{}` is there twice", .0.as_str())]
    DuplicateDrive(DriveRole),
    /// No root drive.
    #[error("there is no root drive")]
    NoRoot,
    /// qcow2 for anything but the root.
    #[error("the drive `{}` must be raw", .0.as_str())]
    NotRaw(DriveRole),
}

impl LaunchSpec {
    /// How many descriptors of drives come with the request.
    #[must_use]
    pub fn drive_fds(&self) -> usize {
        let overlays = self
            .drives
            .iter()
            .filter(|d| d.format == DriveFormat::Qcow2)
            .count();
        self.drives.len() + overlays
    }

    /// Checks every value, before the first system call.
    ///
    /// # Errors
    /// The first value that is refused.
    pub fn check(&self) -> Result<(), LaunchSpecError> {
        if !(1..=32).contains(&self.vcpu) {
            return Err(LaunchSpecError::Vcpu(self.vcpu));
        }
        if !(64..=1 << 20).contains(&self.memory_mib.0) {
            return Err(LaunchSpecError::Memory(self.memory_mib));
        }
        let printable = |b: u8| (0x20..0x7f).contains(&b);
        if self.boot_args.len() > 1500 || !self.boot_args.bytes().all(printable) {
            return Err(LaunchSpecError::BootArgs);
        }
        for (at, drive) in self.drives.iter().enumerate() {
            if self.drives[..at]
                .iter()
                .any(|other| other.role == drive.role)
            {
                return Err(LaunchSpecError::DuplicateDrive(drive.role));
            }
            if drive.format == DriveFormat::Qcow2 && drive.role != DriveRole::Root {
                return Err(LaunchSpecError::NotRaw(drive.role));
            }
        }
        if !self
            .drives
            .iter()
            .any(|drive| drive.role == DriveRole::Root)
        {
            return Err(LaunchSpecError::NoRoot);
        }
        Ok(())
    }
}
