//! Kernel modules that the boot itself needs, from the initramfs.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::Report;
use crate::root::Root;

/// Where the agent stands under the name of modprobe, in the guest's `/run`.
pub(crate) const MODPROBE: &str = "/run/banger/modprobe";

/// Loads what the list names, one path per line, in its order: it was made when the kernel was
/// imported, with every dependency before what needs it. Absent list: a kernel with all built in.
pub(super) fn load_in_order(list: &str, report: &mut Report) {
    let Ok(list) = std::fs::read_to_string(list) else {
        return;
    };
    let has_pci = has_pci();
    for path in list.lines().map(str::trim) {
        if path.is_empty() || path.starts_with('#') || (!has_pci && is_for_pci(path)) {
            continue;
        }
        report.note(&format!("load {path}"), load(Path::new(path)));
    }
}

/// Whether there is anything on a PCI bus: microvm and Firecracker have their devices on MMIO, and a
/// driver costs time even when it finds nothing.
fn has_pci() -> bool {
    std::fs::read_dir("/sys/bus/pci/devices").is_ok_and(|mut devices| devices.next().is_some())
}

fn is_for_pci(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with("virtio_pci")
}

fn load(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        // Built into this kernel.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // A driver whose device this machine does not have.
        Err(Errno::NODEV) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes the kernel call the agent for modules where the image has no modprobe.
pub(super) fn offer_modprobe(root: &Root) -> io::Result<()> {
    let has_one = ["/sbin/modprobe", "/usr/sbin/modprobe"]
        .iter()
        .any(|path| root.is_program(path));
    if has_one {
        return Ok(());
    }
    std::fs::write("/proc/sys/kernel/modprobe", MODPROBE)
}
