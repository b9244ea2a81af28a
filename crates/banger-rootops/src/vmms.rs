//! VMMs after their launch: probing, signalling, ending, and finding those that a crash hid.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use banger_core::{VmId, VmmKind};
use banger_root_proto::{OwnedVmm, ProcessIdentity, ProcessState, Refusal, RefusalCode, VmmSignal};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use crate::device_mapper::DeviceMapper;
use crate::drives::{self, Facts};
use crate::helper::Helper;
use crate::process::{self, Alive};
use crate::refuse::{OrRefuse as _, refuse};
use crate::run_dir;
use crate::systemd;

/// How long a killed process may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of a VM's processes.
#[derive(Debug)]
pub(crate) struct Probed {
    pub(crate) vmm: ProcessState,
    pub(crate) paused: bool,
    pub(crate) backend: Option<ProcessState>,
    pub(crate) pidfds: Vec<OwnedFd>,
}

impl Helper {
    /// Whether the VM's processes still are what was launched. Of an unknown VM the VMM is gone.
    pub(crate) fn probe(&self, vm: &VmId) -> Probed {
        let entry = self.ledger.vmms.get(vm);
        let vmm = entry.and_then(|entry| alive(entry.uid, entry.vmm.as_ref()));
        let backend = entry.and_then(|entry| alive(entry.uid, entry.backend.as_ref()));
        Probed {
            vmm: process::state(vmm.as_ref()),
            paused: vmm.as_ref().is_some_and(|vmm| vmm.is_stopped),
            backend: entry
                .filter(|entry| entry.has_backend())
                .map(|_| process::state(backend.as_ref())),
            pidfds: [vmm, backend]
                .into_iter()
                .flatten()
                .map(|alive| alive.pidfd)
                .collect(),
        }
    }

    /// Every VMM in the ledger.
    pub(crate) fn list_vmms(&self) -> Vec<OwnedVmm> {
        let snapshots = self
            .ledger
            .vmms
            .values()
            .any(|entry| entry.snapshot_of.is_some());
        let mapper = snapshots.then(|| DeviceMapper::open().ok()).flatten();
        let owned = |vm: &VmId| {
            let Probed {
                vmm,
                paused,
                backend,
                ..
            } = self.probe(vm);
            OwnedVmm {
                vm: vm.clone(),
                vmm,
                paused,
                backend,
                store: self.store_fill(mapper.as_ref(), vm),
            }
        };
        self.ledger.vmms.keys().map(owned).collect()
    }

    /// Sends a signal to the VM's VMM.
    pub(crate) fn signal(&self, vm: &VmId, signal: VmmSignal) -> Result<(), Refusal> {
        let entry = self.ledger.vmms.get(vm);
        let unknown = || {
            refuse(
                RefusalCode::Unknown,
                format!("the VM {vm} has no running VMM"),
            )
        };
        let alive = entry
            .and_then(|entry| alive(entry.uid, entry.vmm.as_ref()))
            .ok_or_else(unknown)?;
        let signal = match signal {
            VmmSignal::Term => Signal::TERM,
            VmmSignal::Kill => Signal::KILL,
            VmmSignal::Stop => Signal::STOP,
            VmmSignal::Cont => Signal::CONT,
        };
        match pidfd_send_signal(&alive.pidfd, signal) {
            Err(Errno::SRCH) => Err(unknown()),
            other => other.or_refuse(|| format!("failed to signal the VMM of {vm}")),
        }
    }

    /// Ends the VM's processes, removes `run` from its folder, and forgets it. Absent is fine.
    pub(crate) fn remove_vmm(&mut self, vm: &VmId, fds: &[OwnedFd]) -> Result<(), Refusal> {
        let folder = match fds {
            [] => None,
            [folder] => {
                let facts = Facts::of(folder.as_fd(), self.config.owner)?;
                drives::check_folder(&facts, self.config.owner)?;
                Some(folder.as_fd())
            }
            _ => {
                return Err(refuse(
                    RefusalCode::Descriptor,
                    "only the VM's folder belongs here",
                ));
            }
        };
        self.forget(vm, folder)
    }

    /// The same, with a checked folder.
    pub(crate) fn forget(
        &mut self,
        vm: &VmId,
        folder: Option<BorrowedFd<'_>>,
    ) -> Result<(), Refusal> {
        let uid = self.ledger.vmms.get(vm).map(|entry| entry.uid);
        if let Some(uid) = uid
            && !process::end_all(uid, PATIENCE)
        {
            let message = format!("the VMM of {vm} was killed but has not ended");
            return Err(refuse(RefusalCode::Busy, message));
        }
        if uid.is_some() && self.config.slice.is_some() {
            // Its name is free again when this returns.
            systemd::end(vm);
        }
        // Both are tried; the first failure is the one to tell.
        let removed = folder.map_or(Ok(()), |folder| {
            let in_use = |other| Some(other) != uid && self.may_run(other);
            run_dir::remove(folder, self.config.owner, in_use)
        });
        let entry = self.ledger.vmms.get(vm);
        if entry.is_some_and(|entry| entry.snapshot_of.is_some()) {
            removed.and(self.remove_snapshot(vm).map(drop))?;
        } else {
            removed?;
        }
        if let Some(uid) = uid {
            self.ledger.vmms.remove(vm);
            self.save()?;
            self.claims.release(uid);
        }
        Ok(())
    }

    /// Corrects entries whose launch was cut short, or that name a process which is none of the VM's: whatever runs
    /// as the VM's user was started by it. True when something was found.
    pub(crate) fn recover(&mut self) -> bool {
        let mut found = false;
        for entry in self.ledger.vmms.values_mut() {
            let uid = entry.uid;
            let lost = |slot: &Option<ProcessIdentity>| alive(uid, slot.as_ref()).is_none();
            let config = &self.config;
            let (vmm, backend) = match entry.kind {
                VmmKind::Qemu => (Some(&config.qemu), Some(&config.vhost_vsock)),
                VmmKind::Firecracker => (config.firecracker.as_ref(), None),
            };
            let mut slots = [(&mut entry.vmm, vmm), (&mut entry.backend, backend)];
            if !slots
                .iter()
                .any(|(slot, program)| program.is_some() && lost(slot))
            {
                continue;
            }
            for pid in process::running_as(uid) {
                for (slot, program) in &mut slots {
                    let Some(program) = program else { continue };
                    if lost(slot) && process::runs(pid, program) {
                        let identity = process::identify(pid, program).ok();
                        found |= identity.is_some();
                        **slot = identity.or(slot.take());
                    }
                }
            }
        }
        found
    }
}

/// The process, when it is still there and the VM's user has it.
fn alive(uid: u32, identity: Option<&ProcessIdentity>) -> Option<Alive> {
    process::probe(identity?).filter(|alive| process::runs_as(alive.identity.pid, uid))
}
