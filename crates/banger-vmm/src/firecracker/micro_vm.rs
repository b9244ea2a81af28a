//! A microVM as Firecracker is told it: values in, requests out. Pure. Every path is a fixed name in
//! the VMM's own directory.

use banger_core::{MacAddr, MemoryMib, TapName, VmId};

use super::api::{
    Action, BootSource, CacheType, Drive, Entropy, MachineConfig, NetworkInterface, Serial, Vsock,
};
use super::request::Request;

/// The guest's address on its vsock; every VM has its own device, so all have the same.
const GUEST_CID: u32 = 3;

/// A drive, by its fixed name in the VMM's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroVmDrive {
    /// `root`, `work`, `config` or `modules`.
    pub name: &'static str,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// A microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroVm {
    /// Whose it is; its tap is named after it.
    pub vm: VmId,
    /// Virtual processors.
    pub vcpu: u16,
    /// Guest memory.
    pub memory: MemoryMib,
    /// The kernel's command line.
    pub boot_args: String,
    /// The drives, in the order in which the guest sees them.
    pub drives: Vec<MicroVmDrive>,
    /// The guest's MAC on the VM's tap. None: no network interface.
    pub mac: Option<MacAddr>,
    /// Whether flushes may be ignored.
    pub ephemeral: bool,
}

impl MicroVm {
    /// What Firecracker is told, up to the guest's start.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        let mut requests = vec![
            Request::MachineConfig(MachineConfig {
                vcpu_count: self.vcpu,
                mem_size_mib: self.memory.0,
                track_dirty_pages: None,
            }),
            Request::BootSource(BootSource {
                kernel_image_path: "kernel".into(),
                initrd_path: Some("initrd".into()),
                boot_args: Some(self.boot_args.clone()),
            }),
        ];
        requests.extend(
            self.drives
                .iter()
                .map(|drive| Request::Drive(self.drive(drive))),
        );
        requests.extend(self.mac.map(|mac| {
            Request::NetworkInterface(NetworkInterface {
                iface_id: "net0".into(),
                host_dev_name: TapName::of(&self.vm).as_str().to_owned(),
                guest_mac: Some(mac),
            })
        }));
        requests.extend([
            Request::Vsock(Vsock {
                guest_cid: GUEST_CID,
                uds_path: "v".into(),
            }),
            Request::Entropy(Entropy {}),
            Request::Serial(Serial {
                serial_out_path: "console".into(),
            }),
            Request::Action(Action::InstanceStart),
        ]);
        requests
    }

    /// The initramfs finds its root itself: none of the drives is Firecracker's root device.
    fn drive(&self, drive: &MicroVmDrive) -> Drive {
        let writes_count = !drive.read_only && !self.ephemeral;
        Drive {
            drive_id: drive.name.into(),
            path_on_host: drive.name.into(),
            is_root_device: false,
            is_read_only: drive.read_only,
            cache_type: match writes_count {
                true => CacheType::Writeback,
                false => CacheType::Unsafe,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micro_vm() -> MicroVm {
        let vm: VmId = "0123456789ab".parse().unwrap();
        let drive = |name, read_only| MicroVmDrive { name, read_only };
        MicroVm {
            mac: Some(vm.mac()),
            vm,
            vcpu: 2,
            memory: MemoryMib(1024),
            boot_args: "console=ttyS0 quiet".into(),
            drives: vec![
                drive("root", false),
                drive("work", false),
                drive("config", true),
                drive("modules", true),
            ],
            ephemeral: false,
        }
    }

    fn said(micro_vm: &MicroVm) -> String {
        let line = |request: Request| {
            let body = String::from_utf8(request.body().unwrap()).unwrap();
            format!("{} {body}", request.name())
        };
        let lines: Vec<String> = micro_vm.requests().into_iter().map(line).collect();
        lines.join("\n")
    }

    #[test]
    fn all_that_is_said_before_the_start() {
        insta::assert_snapshot!(said(&micro_vm()));
    }

    #[test]
    fn a_vm_that_is_thrown_away_needs_no_flushes_and_one_without_a_mac_no_network() {
        let micro_vm = MicroVm {
            ephemeral: true,
            mac: None,
            ..micro_vm()
        };
        let said = said(&micro_vm);
        assert!(!said.contains("Writeback") && !said.contains("/network-interfaces"));
    }
}
