//! QEMU's arguments, from the typed specification. Every path is a fixed name in the VMM's own
//! directory.

use std::os::fd::RawFd;

use banger_core::VmId;
use banger_root_proto::{Accel, CacheMode, DriveFormat, DriveRole, DriveSpec, LaunchSpec};

/// How QEMU comes to its tap.
#[derive(Debug, Clone, Copy)]
pub enum QemuTap<'a> {
    /// As an open descriptor.
    Fd(RawFd),
    /// By its name: only its user may.
    Name(&'a str),
}

/// A fixed name in the VMM's directory, for the files that are not drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The kernel, ELF.
    Kernel,
    /// The initramfs.
    Initrd,
    /// What the root drive's overlay lies over.
    Base,
    /// A drive.
    Drive(DriveRole),
}

impl Role {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Base => "base",
            Self::Drive(role) => role.as_str(),
        }
    }
}

/// The arguments of `qemu-system-x86_64` (7.2 and later), run in the VMM's directory.
///
/// Shared memory is what makes vhost-user work; without `share=on` vsock is dead and nothing says
/// so. The overlay's own idea of its base is overridden, so that only our files are opened.
#[must_use]
pub fn qemu_args(
    vm: &VmId,
    spec: &LaunchSpec,
    accel: Accel,
    tap: Option<QemuTap<'_>>,
) -> Vec<String> {
    let (accel, cpu) = match accel {
        Accel::Kvm => ("kvm", "host"),
        Accel::Tcg => ("tcg", "max"),
    };
    let memory = spec.memory_mib.0;
    let mut args = Arguments(vec![]);
    args.pair("-name", vm.to_string());
    args.pair(
        "-machine",
        format!(
            "microvm,accel={accel},acpi=on,rtc=on,pcie=off,isa-serial=on,x-option-roms=off,\
             memory-backend=mem"
        ),
    );
    args.pair("-cpu", cpu);
    args.pair("-smp", spec.vcpu.to_string());
    args.pair("-m", format!("{memory}M"));
    args.pair(
        "-object",
        format!("memory-backend-memfd,id=mem,size={memory}M,share=on"),
    );
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        args.0.push(flag.to_owned());
    }
    args.pair("-display", "none");
    args.pair("-msg", "timestamp=on");
    args.pair("-kernel", "kernel");
    args.pair("-initrd", "initrd");
    args.pair("-append", &spec.boot_args);
    args.pair("-chardev", "file,id=console,path=console,append=on");
    args.pair("-serial", "chardev:console");
    args.pair("-qmp", "unix:api,server=on,wait=off");
    for drive in &spec.drives {
        let role = drive.role.as_str();
        args.pair("-drive", drive_value(*drive, spec.cache));
        args.pair(
            "-device",
            format!("virtio-blk-device,drive={role},serial={role}"),
        );
    }
    if let (Some(mac), Some(tap)) = (spec.mac, tap) {
        let how = match tap {
            QemuTap::Fd(fd) => format!("fd={fd}"),
            QemuTap::Name(name) => format!("ifname={name},script=no,downscript=no"),
        };
        args.pair("-netdev", format!("tap,id=net0,{how}"));
        args.pair(
            "-device",
            format!("virtio-net-device,netdev=net0,mac={mac}"),
        );
    }
    args.pair("-chardev", "socket,id=vsock,path=vhost");
    args.pair("-device", "vhost-user-vsock-device,chardev=vsock");
    args.pair("-device", "virtio-rng-device");
    args.pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    args.0
}

fn drive_value(drive: DriveSpec, cache: CacheMode) -> String {
    let role = drive.role.as_str();
    // A snapshot stands there as a block device.
    let driver = match drive.format {
        DriveFormat::Raw | DriveFormat::Qcow2 => "file",
        DriveFormat::Snapshot => "host_device",
    };
    let mut value = format!("if=none,id={role},file.driver={driver},file.filename={role}");
    value += match drive.format {
        DriveFormat::Raw | DriveFormat::Snapshot => ",format=raw",
        DriveFormat::Qcow2 => {
            ",format=qcow2,backing.driver=raw,backing.file.driver=file,backing.file.filename=base"
        }
    };
    value += match (drive.read_only, cache) {
        (true, _) => ",read-only=on",
        // A full disk stops the guest and is told to nobody in it; the owner lets it go on.
        (false, CacheMode::Writeback) => ",cache=writeback,discard=unmap,werror=enospc",
        (false, CacheMode::Unsafe) => ",cache=unsafe,discard=unmap,werror=enospc",
    };
    value
}

struct Arguments(Vec<String>);

impl Arguments {
    fn pair(&mut self, flag: &str, value: impl Into<String>) {
        self.0.push(flag.to_owned());
        self.0.push(value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_core::MemoryMib;
    use banger_root_proto::VmmSpec;

    fn drive(role: DriveRole, format: DriveFormat, read_only: bool) -> DriveSpec {
        DriveSpec {
            role,
            format,
            read_only,
        }
    }

    fn spec() -> LaunchSpec {
        LaunchSpec {
            vmm: VmmSpec::Qemu { accel: Accel::Tcg },
            vcpu: 2,
            memory_mib: MemoryMib(1024),
            boot_args: "console=ttyS0 quiet, file=/etc/passwd".into(),
            drives: vec![
                drive(DriveRole::Root, DriveFormat::Qcow2, false),
                drive(DriveRole::Work, DriveFormat::Raw, false),
                drive(DriveRole::Config, DriveFormat::Raw, true),
                drive(DriveRole::Modules, DriveFormat::Raw, true),
            ],
            mac: Some("06:01:45:89:01:45".parse().unwrap()),
            cache: CacheMode::Writeback,
        }
    }

    fn rendered(spec: &LaunchSpec, tap: Option<QemuTap<'_>>) -> String {
        let VmmSpec::Qemu { accel } = spec.vmm else {
            panic!("not QEMU")
        };
        let args = qemu_args(&"0123456789ab".parse().unwrap(), spec, accel, tap);
        args.join("\n")
    }

    #[test]
    fn with_everything() {
        insta::assert_snapshot!(rendered(&spec(), Some(QemuTap::Fd(17))));
    }

    #[test]
    fn a_tap_by_name() {
        let args = rendered(&spec(), Some(QemuTap::Name("bgr0123456789ab")));
        let wanted = "tap,id=net0,ifname=bgr0123456789ab,script=no,downscript=no";
        assert!(args.lines().any(|line| line == wanted), "{args}");
    }

    #[test]
    fn with_the_least() {
        let spec = LaunchSpec {
            vmm: VmmSpec::Qemu { accel: Accel::Kvm },
            drives: vec![drive(DriveRole::Root, DriveFormat::Snapshot, false)],
            mac: None,
            cache: CacheMode::Unsafe,
            ..spec()
        };
        insta::assert_snapshot!(rendered(&spec, None));
    }
}
