//! Which program runs a new VM, and what its root disk is kept in: what was asked for, what the
//! configuration says, and what the host can. Pure.

use banger_core::{Choice, ErrorCode, RootStorage, VmmKind};
use banger_engine::ports::Failure;

/// What the host can, each with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostVmms {
    /// Whether guests can run on KVM.
    pub(crate) kvm: Result<String, String>,
    /// The Firecracker that is found, and can be used.
    pub(crate) firecracker: Result<String, String>,
    /// Whether the helper makes device-mapper snapshots.
    pub(crate) snapshots: Result<(), String>,
    /// Whether the file system of the VMs shares blocks between files.
    pub(crate) reflinks: bool,
}

/// A choice, and why it came so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen<T> {
    pub(crate) value: T,
    pub(crate) reason: String,
}

/// Chooses both.
pub(crate) fn choose(
    vmm: Choice<VmmKind>,
    storage: Choice<RootStorage>,
    host: &HostVmms,
) -> Result<(Chosen<VmmKind>, Chosen<RootStorage>), Failure> {
    let vmm = choose_vmm(vmm, storage, host)?;
    let storage = choose_storage(storage, vmm.value, host)?;
    Ok((vmm, storage))
}

fn choose_vmm(
    asked: Choice<VmmKind>,
    storage: Choice<RootStorage>,
    host: &HostVmms,
) -> Result<Chosen<VmmKind>, Failure> {
    let qemu_how = match &host.kvm {
        Ok(_) => "with KVM".to_owned(),
        Err(why) => format!("with emulation ({why})"),
    };
    let usable = match (&host.firecracker, &host.kvm) {
        (Err(why), _) => Err(why.clone()),
        (Ok(_), Err(why)) => Err(format!("Firecracker needs KVM, and {why}")),
        (Ok(found), Ok(_)) => Ok(found.clone()),
    };
    let (value, reason) = match (asked, usable) {
        (Choice::This(VmmKind::Qemu), _) => (
            VmmKind::Qemu,
            format!("QEMU was asked for; it runs {qemu_how}"),
        ),
        (Choice::This(VmmKind::Firecracker), Ok(found)) => (
            VmmKind::Firecracker,
            format!("Firecracker was asked for; {found}"),
        ),
        (Choice::This(VmmKind::Firecracker), Err(why)) => {
            let what = "Firecracker was asked for, and cannot run here";
            let mut failure = Failure::new(ErrorCode::HostNotReady, what);
            failure.causes.push(why);
            return Err(failure.hint("`--vmm qemu` runs the VM in QEMU"));
        }
        (Choice::Auto, _) if storage == Choice::This(RootStorage::Qcow2) => (
            VmmKind::Qemu,
            format!("the configured storage is qcow2, which is QEMU's; it runs {qemu_how}"),
        ),
        (Choice::Auto, Ok(found)) => (VmmKind::Firecracker, found),
        (Choice::Auto, Err(why)) => (
            VmmKind::Qemu,
            format!("QEMU {qemu_how}, for there is no usable Firecracker: {why}"),
        ),
    };
    Ok(Chosen { value, reason })
}

fn choose_storage(
    asked: Choice<RootStorage>,
    vmm: VmmKind,
    host: &HostVmms,
) -> Result<Chosen<RootStorage>, Failure> {
    const NO_REFLINKS: &str = "its file system shares no blocks between files";
    let refuse = |why: &str| {
        let what = "the configured `storage` cannot be used";
        let mut failure = Failure::new(ErrorCode::HostNotReady, what);
        failure.causes.push(why.to_owned());
        Err(failure.hint("`storage = \"auto\"` in config.toml takes what the host can"))
    };
    let value = match asked {
        Choice::This(RootStorage::DmSnapshot) => match &host.snapshots {
            Err(why) => return refuse(why),
            Ok(()) => RootStorage::DmSnapshot,
        },
        Choice::This(RootStorage::Reflink) if !host.reflinks => return refuse(NO_REFLINKS),
        Choice::This(storage) if !storage.fits(vmm) => {
            return refuse(&format!(
                "{vmm} cannot use a root disk of the kind {storage}"
            ));
        }
        Choice::This(storage) => storage,
        Choice::Auto if host.snapshots.is_ok() => RootStorage::DmSnapshot,
        Choice::Auto if vmm == VmmKind::Qemu => RootStorage::Qcow2,
        Choice::Auto if host.reflinks => RootStorage::Reflink,
        Choice::Auto => RootStorage::Copy,
    };
    let what = match value {
        RootStorage::DmSnapshot => "device-mapper snapshots over the image",
        RootStorage::Reflink => "copies of the image that share its blocks",
        RootStorage::Qcow2 => "qcow2 overlays over the image",
        RootStorage::Copy => "sparse copies of the image",
    };
    let why = match (&asked, &host.snapshots) {
        (Choice::This(_), _) => "as configured".to_owned(),
        (Choice::Auto, Ok(())) => "device-mapper works".to_owned(),
        (Choice::Auto, Err(why)) => format!("no device-mapper: {why}"),
    };
    Ok(Chosen {
        value,
        reason: format!("{what} ({why})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> HostVmms {
        HostVmms {
            kvm: Ok("KVM answers".into()),
            firecracker: Ok("Firecracker 1.16.1".into()),
            snapshots: Ok(()),
            reflinks: true,
        }
    }

    fn nothing() -> HostVmms {
        HostVmms {
            kvm: Err("no vmx".into()),
            firecracker: Err("none found".into()),
            snapshots: Err("no dm".into()),
            reflinks: false,
        }
    }

    fn chosen(
        vmm: Choice<VmmKind>,
        storage: Choice<RootStorage>,
        host: &HostVmms,
    ) -> Result<(VmmKind, RootStorage), ErrorCode> {
        let chosen = choose(vmm, storage, host).map_err(|failure| failure.code)?;
        assert!(chosen.0.value == VmmKind::Qemu || host.kvm.is_ok());
        assert!(chosen.1.value.fits(chosen.0.value));
        Ok((chosen.0.value, chosen.1.value))
    }

    use Choice::{Auto, This};
    use RootStorage::{Copy, DmSnapshot, Qcow2, Reflink};
    use VmmKind::{Firecracker, Qemu};

    #[test]
    fn auto_takes_the_best_that_works() {
        let auto = |host: &HostVmms| chosen(Auto, Auto, host).unwrap();
        assert_eq!(auto(&all()), (Firecracker, DmSnapshot));
        assert_eq!(auto(&nothing()), (Qemu, Qcow2));
        let no_dm = |reflinks| HostVmms {
            snapshots: Err("no dm".into()),
            reflinks,
            ..all()
        };
        assert_eq!(auto(&no_dm(true)), (Firecracker, Reflink));
        assert_eq!(auto(&no_dm(false)), (Firecracker, Copy));
        let no_firecracker = HostVmms {
            firecracker: Err("none".into()),
            ..all()
        };
        assert_eq!(auto(&no_firecracker), (Qemu, DmSnapshot));
        // A Firecracker is no use without KVM.
        let no_kvm = HostVmms {
            kvm: Err("no vmx".into()),
            ..no_dm(false)
        };
        assert_eq!(auto(&no_kvm), (Qemu, Qcow2));
        assert!(
            choose(Auto, Auto, &no_kvm)
                .unwrap()
                .0
                .reason
                .contains("no vmx")
        );
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused() {
        let refused = Err(ErrorCode::HostNotReady);
        for storage in [DmSnapshot, Reflink, Qcow2, Copy] {
            let expected = Ok((Qemu, storage));
            assert_eq!(chosen(This(Qemu), This(storage), &all()), expected);
        }
        assert_eq!(chosen(This(Firecracker), Auto, &nothing()), refused);
        assert_eq!(chosen(Auto, This(DmSnapshot), &nothing()), refused);
        assert_eq!(chosen(Auto, This(Reflink), &nothing()), refused);
        assert_eq!(chosen(Auto, This(Copy), &nothing()), Ok((Qemu, Copy)));
        assert_eq!(chosen(This(Firecracker), This(Qcow2), &all()), refused);
        // The storage decides where the VMM is free.
        assert_eq!(chosen(Auto, This(Qcow2), &all()), Ok((Qemu, Qcow2)));
    }
}
