//! The ledger, made again from what the kernel shows when the file is lost or damaged, and freed of what cannot be
//! ours. Users tell whose a process is: each VM's processes run as a user that this helper has claimed, and nobody
//! else is. Which VM it is says the folder it works in, or its unit; both are out of its own reach.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use banger_core::{VmId, VmmKind};

use crate::device_mapper::{DeviceMapper, DmName};
use crate::helper::Helper;
use crate::ledger::VmmEntry;
use crate::loop_device::{FileId, LoopDevice};
use crate::process;
use crate::unit;

impl Helper {
    /// Forgets entries with a user that another helper has claimed. True when there were some.
    pub(crate) fn forget_foreign(&mut self) -> bool {
        let before = self.ledger.vmms.len();
        let claims = &self.claims;
        let ours = |entry: &VmmEntry| !claims.is_foreign(entry.uid);
        self.ledger.vmms.retain(|_, entry| ours(entry));
        self.ledger.vmms.len() != before
    }

    /// Notes VMMs that run as users which this helper has claimed, and that no entry knows. True when something
    /// was found. Taps have no entry yet: the owner says which address each has.
    pub(crate) fn find_lost(&mut self) -> bool {
        let known = |uid: &u32| self.ledger.vmms.values().any(|entry| entry.uid == *uid);
        let lost: Vec<u32> = self.claims.ours().filter(|uid| !known(uid)).collect();
        let found: Vec<_> = lost
            .into_iter()
            .filter_map(|uid| self.entry_of(uid))
            .collect();
        let is_some = !found.is_empty();
        for (vm, entry) in found {
            self.ledger.vmms.entry(vm).or_insert(entry);
        }
        is_some
    }

    /// What runs as that user; none when it is no VMM.
    fn entry_of(&self, uid: u32) -> Option<(VmId, VmmEntry)> {
        let config = &self.config;
        let pids = process::running_as(uid);
        let first = |program: &Path| pids.iter().find(|pid| process::runs(**pid, program));
        let firecracker = config.firecracker.as_deref().and_then(first);
        let (kind, vmm, program) = match (first(&config.qemu), firecracker) {
            (Some(pid), _) => (VmmKind::Qemu, *pid, config.qemu.as_path()),
            (None, Some(pid)) => (VmmKind::Firecracker, *pid, config.firecracker.as_deref()?),
            (None, None) => return None,
        };
        let vm = vm_of(vmm, uid)?;
        let backend = first(&config.vhost_vsock).filter(|_| kind == VmmKind::Qemu);
        let backend = backend.and_then(|pid| process::identify(*pid, &config.vhost_vsock).ok());
        let entry = VmmEntry {
            uid,
            kind,
            vmm: process::identify(vmm, program).ok(),
            backend,
            snapshot_of: self.base_of(&vm),
        };
        Some((vm, entry))
    }

    /// The base below the VM's root disk, when that is a snapshot.
    fn base_of(&self, vm: &VmId) -> Option<FileId> {
        let name = DmName::new(&self.config.device_tag(), vm);
        let device = DeviceMapper::open().ok()?.base(&name).ok()??;
        LoopDevice::base_file(device)
    }
}

/// Whose process it is: by its unit, or by the folder it works in, which only its own user has.
fn vm_of(pid: u32, uid: u32) -> Option<VmId> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if let Some(vm) = unit::vm_among(&groups) {
        return Some(vm);
    }
    let link = format!("/proc/{pid}/cwd");
    if fs::metadata(&link).ok()?.uid() != uid {
        return None;
    }
    vm_in(&fs::read_link(link).ok()?)
}

/// The VM of a path `…/<id>/run`.
fn vm_in(path: &Path) -> Option<VmId> {
    let folder = path.parent().filter(|_| path.ends_with("run"))?;
    folder.file_name()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_or_a_unit_says_which_vm_it_is() {
        let vm = |path: &str| vm_in(Path::new(path)).map(|vm| vm.to_string());
        assert_eq!(vm("/s/vms/0123456789ab/run").unwrap(), "0123456789ab");
        for none in ["/", "run", "/s/vms/x/run", "/s/0123456789ab/run (deleted)"] {
            assert_eq!(vm(none), None, "{none}");
        }
        let unit = |groups: &str| unit::vm_among(groups).map(|vm| vm.to_string());
        let line = "0::/banger.slice/banger-vm-0123456789ab.service\n";
        assert_eq!(unit(line).unwrap(), "0123456789ab");
        for none in [
            "",
            "0::/\n",
            "0::/banger.slice/banger-vm-x.service\n",
            "0::/a/ssh.service/banger-vm-0123456789ab.service/inner\n",
        ] {
            assert_eq!(unit(none), None, "{none}");
        }
    }

    #[test]
    fn a_process_elsewhere_is_no_vm() {
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(vm_of(std::process::id(), uid), None);
    }
}
