//! How a VMM is started: values, never arguments. The helper renders the command line.

use banger_core::{MacAddr, MemoryMib, VmmKind};
use serde::{Deserialize, Serialize};

/// Everything about a launch that the owner decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// The program that runs the guest.
    pub vmm: VmmSpec,
    /// Virtual processors, 1 to 32.
    pub vcpu: u16,
    /// Guest memory in MiB.
    pub memory_mib: MemoryMib,
    /// The guest kernel's command line: printable ASCII, at most 1,500 bytes. Firecracker is given
    /// its own later, by its API.
    pub boot_args: String,
    /// The drives, in the order in which the guest sees them.
    pub drives: Vec<DriveSpec>,
    /// The guest's MAC on the VM's tap, which must exist. None: no network interface.
    pub mac: Option<MacAddr>,
    /// Whether flushes of writable drives reach the host's disk.
    pub cache: CacheMode,
}

/// The program that runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum VmmSpec {
    /// QEMU's `microvm` machine, with a vsock backend beside it. It boots at once.
    Qemu {
        /// How instructions run.
        accel: Accel,
    },
    /// Firecracker, on KVM. It waits in the VM's directory until the owner has configured and
    /// started it by its API.
    Firecracker {},
}

impl VmmSpec {
    /// Which program it is.
    #[must_use]
    pub const fn kind(self) -> VmmKind {
        match self {
            Self::Qemu { .. } => VmmKind::Qemu,
            Self::Firecracker {} => VmmKind::Firecracker,
        }
    }
}

/// How QEMU runs instructions.
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
    /// The store of a device-mapper snapshot over the file that follows it. The guest sees the
    /// snapshot as a raw disk.
    Snapshot,
}

impl DriveFormat {
    /// Whether its read-only base follows it.
    #[must_use]
    pub const fn has_base(self) -> bool {
        match self {
            Self::Raw => false,
            Self::Qcow2 | Self::Snapshot => true,
        }
    }
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
    /// qcow2 or a snapshot for anything but the root.
    #[error("the drive `{}` must be raw", .0.as_str())]
    NotRaw(DriveRole),
    /// Firecracker reads no qcow2.
    #[error("Firecracker cannot use a qcow2 drive")]
    Qcow2OnFirecracker,
}

impl LaunchSpec {
    /// How many descriptors of drives come with the request.
    #[must_use]
    pub fn drive_fds(&self) -> usize {
        let overlays = self
            .drives
            .iter()
            .filter(|drive| drive.format.has_base())
            .count();
        self.drives.len() + overlays
    }

    /// Whether the root drive is a device-mapper snapshot.
    #[must_use]
    pub fn root_is_snapshot(&self) -> bool {
        self.drives
            .iter()
            .any(|drive| drive.role == DriveRole::Root && drive.format == DriveFormat::Snapshot)
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
            if drive.format != DriveFormat::Raw && drive.role != DriveRole::Root {
                return Err(LaunchSpecError::NotRaw(drive.role));
            }
            let is_firecracker = self.vmm.kind() == VmmKind::Firecracker;
            if is_firecracker && drive.format == DriveFormat::Qcow2 {
                return Err(LaunchSpecError::Qcow2OnFirecracker);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(vmm: VmmSpec, root: DriveFormat) -> LaunchSpec {
        LaunchSpec {
            vmm,
            vcpu: 1,
            memory_mib: MemoryMib(64),
            boot_args: String::new(),
            drives: vec![DriveSpec {
                role: DriveRole::Root,
                format: root,
                read_only: false,
            }],
            mac: None,
            cache: CacheMode::Writeback,
        }
    }

    #[test]
    fn firecracker_takes_every_root_but_qcow2() {
        let qemu = VmmSpec::Qemu { accel: Accel::Tcg };
        let firecracker = VmmSpec::Firecracker {};
        for format in [DriveFormat::Raw, DriveFormat::Snapshot] {
            assert_eq!(spec(firecracker, format).check(), Ok(()));
            assert_eq!(spec(qemu, format).check(), Ok(()));
        }
        assert_eq!(spec(qemu, DriveFormat::Qcow2).check(), Ok(()));
        assert_eq!(
            spec(firecracker, DriveFormat::Qcow2).check(),
            Err(LaunchSpecError::Qcow2OnFirecracker)
        );
    }

    #[test]
    fn a_base_comes_with_each_drive_that_lies_over_one() {
        let qemu = VmmSpec::Qemu { accel: Accel::Tcg };
        assert_eq!(spec(qemu, DriveFormat::Raw).drive_fds(), 1);
        assert_eq!(spec(qemu, DriveFormat::Qcow2).drive_fds(), 2);
        assert_eq!(spec(qemu, DriveFormat::Snapshot).drive_fds(), 2);
        let mut work = spec(qemu, DriveFormat::Raw);
        work.drives.push(DriveSpec {
            role: DriveRole::Work,
            format: DriveFormat::Snapshot,
            read_only: false,
        });
        assert_eq!(work.check(), Err(LaunchSpecError::NotRaw(DriveRole::Work)));
    }

    #[test]
    fn the_vmm_is_named_and_nothing_else_is_taken() {
        let parse = |json: &str| serde_json::from_str::<VmmSpec>(json);
        assert_eq!(
            parse(r#"{"kind":"qemu","accel":"kvm"}"#).unwrap(),
            VmmSpec::Qemu { accel: Accel::Kvm }
        );
        assert_eq!(
            parse(r#"{"kind":"firecracker"}"#).unwrap(),
            VmmSpec::Firecracker {}
        );
        for bad in [
            r#"{"kind":"qemu"}"#,
            r#"{"kind":"firecracker","args":["--no-seccomp"]}"#,
            r#"{"kind":"sh"}"#,
            r#"{"accel":"kvm"}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
