//! QEMU's command line, rendered from the typed specification: relative names only, nothing of the
//! caller's but numbers and the guest kernel's own arguments.

use banger_core::VmId;
use banger_root_proto::{Accel, CacheMode, DriveFormat, DriveSpec, LaunchSpec};

/// The tap's descriptor in the VMM, when it has one.
pub(crate) const TAP_FD: u32 = 3;

/// The arguments for a `microvm` (QEMU's `docs/system/i386/microvm.rst`). The memory must be shared
/// and exactly as large as `-m`, or the vsock device is dead without a word.
#[must_use]
pub fn qemu_args(vm: &VmId, spec: &LaunchSpec) -> Vec<String> {
    let memory = spec.memory_mib.0;
    let accel = match spec.accel {
        Accel::Kvm => "kvm",
        Accel::Tcg => "tcg",
    };
    let cpu = match spec.accel {
        Accel::Kvm => "host",
        Accel::Tcg => "max",
    };
    let mut args: Vec<String> = Vec::new();
    let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
    add("-name", format!("banger-{vm}"));
    add(
        "-M",
        format!("microvm,accel={accel},acpi=on,rtc=on,memory-backend=mem"),
    );
    add(
        "-object",
        format!("memory-backend-memfd,id=mem,size={memory}M,share=on"),
    );
    add("-m", format!("{memory}M"));
    add("-smp", spec.vcpu.to_string());
    add("-cpu", cpu.to_owned());
    add("-display", "none".to_owned());
    add(
        "-chardev",
        "file,id=console,path=console,append=on".to_owned(),
    );
    add("-serial", "chardev:console".to_owned());
    add("-qmp", "unix:api,server=on,wait=off".to_owned());
    add("-kernel", "kernel".to_owned());
    add("-initrd", "initrd".to_owned());
    add("-append", spec.boot_args.clone());
    for drive in &spec.drives {
        let role = drive.role.as_str();
        add("-drive", drive_arg(drive, spec.cache));
        add(
            "-device",
            format!("virtio-blk-device,drive={role},serial={role}"),
        );
    }
    if let Some(mac) = spec.mac {
        add("-netdev", format!("tap,id=net,fd={TAP_FD}"));
        add("-device", format!("virtio-net-device,netdev=net,mac={mac}"));
    }
    add("-chardev", "socket,id=vsock,path=vhost".to_owned());
    add(
        "-device",
        "vhost-user-vsock-device,chardev=vsock".to_owned(),
    );
    add("-device", "virtio-rng-device".to_owned());
    let sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    add("-sandbox", sandbox.to_owned());
    args.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
    args
}

fn drive_arg(drive: &DriveSpec, cache: CacheMode) -> String {
    let role = drive.role.as_str();
    let format = match drive.format {
        DriveFormat::Raw => "raw",
        DriveFormat::Qcow2 => "qcow2",
    };
    let cache = match cache {
        CacheMode::Writeback => "writeback",
        CacheMode::Unsafe => "unsafe",
    };
    let access = if drive.read_only {
        "readonly=on"
    } else {
        "discard=unmap,detect-zeroes=unmap"
    };
    format!("if=none,id={role},file={role},format={format},cache={cache},{access}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_core::MemoryMib;
    use banger_root_proto::DriveRole;

    #[test]
    fn the_command_line_is_this() {
        let vm: VmId = "00000000000a".parse().unwrap();
        let spec = LaunchSpec {
            accel: Accel::Tcg,
            vcpu: 2,
            memory_mib: MemoryMib(512),
            boot_args: "console=ttyS0 a,b=c".into(),
            drives: vec![
                DriveSpec {
                    role: DriveRole::Root,
                    format: DriveFormat::Qcow2,
                    read_only: false,
                },
                DriveSpec {
                    role: DriveRole::Config,
                    format: DriveFormat::Raw,
                    read_only: true,
                },
            ],
            mac: Some(vm.mac()),
            cache: CacheMode::Writeback,
        };
        let line = qemu_args(&vm, &spec).join(" ");
        assert_eq!(
            line,
            "-name banger-00000000000a -M microvm,accel=tcg,acpi=on,rtc=on,memory-backend=mem \
             -object memory-backend-memfd,id=mem,size=512M,share=on -m 512M -smp 2 -cpu max \
             -display none -chardev file,id=console,path=console,append=on -serial chardev:console \
             -qmp unix:api,server=on,wait=off -kernel kernel -initrd initrd \
             -append console=ttyS0 a,b=c \
             -drive if=none,id=root,file=root,format=qcow2,cache=writeback,discard=unmap,detect-zeroes=unmap \
             -device virtio-blk-device,drive=root,serial=root \
             -drive if=none,id=config,file=config,format=raw,cache=writeback,readonly=on \
             -device virtio-blk-device,drive=config,serial=config \
             -netdev tap,id=net,fd=3 -device virtio-net-device,netdev=net,mac=06:00:00:00:00:00 \
             -chardev socket,id=vsock,path=vhost -device vhost-user-vsock-device,chardev=vsock \
             -device virtio-rng-device \
             -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \
             -nodefaults -no-user-config -no-reboot"
        );
    }
}
