//! Launching: everything is checked first, announced in the ledger, then done; what was begun is
//! undone when a step fails.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use banger_core::{TapName, VmId};
use banger_root_proto::{
    Accel, DriveRole, LaunchSpec, ProcessIdentity, Refusal, RefusalCode, VmmSpec,
};

use crate::drives::{self, Facts, Use};
use crate::firecracker::firecracker_args;
use crate::helper::Helper;
use crate::ledger::VmmEntry;
use crate::qemu::{QemuTap, Role, qemu_args};
use crate::refuse::{OrRefuse as _, because, refuse};
use crate::root_disk::SnapshotFiles;
use crate::run_dir::{self, RunDir};
use crate::spawn::{self, Place, Started};
use crate::unit::UnitSpec;
use crate::{process, root_disk, systemd, uids};

/// Running processes.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) vmm: ProcessIdentity,
    pub(crate) backend: Option<ProcessIdentity>,
    pub(crate) pidfds: Vec<OwnedFd>,
}

/// As whom the VMM runs, and the block device that it may open.
#[derive(Debug, Clone, Copy)]
struct User<'a> {
    uid: u32,
    groups: &'a [u32],
    disk: Option<(u32, u32)>,
}

/// What the VMM gets, checked.
struct Files<'a> {
    folder: BorrowedFd<'a>,
    files: Vec<File<'a>>,
    /// What the root drive is made of, when it is a snapshot.
    snapshot: Option<SnapshotFiles<'a>>,
}

/// One of them.
struct File<'a> {
    role: Role,
    how: Use,
    fd: BorrowedFd<'a>,
    facts: Facts,
}

impl Helper {
    /// Starts the VM's processes.
    pub(crate) fn launch(
        &mut self,
        vm: &VmId,
        spec: &LaunchSpec,
        fds: &[OwnedFd],
    ) -> Result<Launched, Refusal> {
        spec.check()
            .or_refuse_as(RefusalCode::Invalid, || "the launch is refused".into())?;
        let groups = self.check_host(vm, spec)?;
        let folder = self.check_count(spec, fds)?;
        self.clear_way(vm, folder)?;
        let files = self.check_files(vm, spec, fds)?;
        if self.ledger.vmms.len() >= self.config.max_vms {
            let message = format!("the quota of {} VMs is reached", self.config.max_vms);
            return Err(refuse(RefusalCode::Quota, message));
        }
        let mut busy = process::uids_in_use();
        busy.extend(self.ledger.vmms.values().map(|entry| entry.uid));
        let uid = self.claims.claim(&busy).map_err(|error| {
            let code = match error {
                uids::ClaimError::Exhausted => RefusalCode::Quota,
                uids::ClaimError::Write { .. } | uids::ClaimError::Lock(_) => RefusalCode::System,
            };
            because(code, "failed to claim a user for the VMM", &error)
        })?;
        let entry = VmmEntry {
            uid,
            kind: spec.vmm.kind(),
            vmm: None,
            backend: None,
            snapshot_of: files.snapshot.map(|files| files.base_id()).transpose()?,
        };
        self.ledger.vmms.insert(vm.clone(), entry);
        let done = self
            .save()
            .and_then(|()| self.start(vm, spec, &files, uid, &groups));
        if done.is_err() {
            // The first failure is the one to tell; what remains is in the ledger.
            let _ = self.forget(vm, Some(folder));
        }
        done
    }

    fn start(
        &mut self,
        vm: &VmId,
        spec: &LaunchSpec,
        files: &Files<'_>,
        uid: u32,
        groups: &[u32],
    ) -> Result<Launched, Refusal> {
        let owner = self.config.owner;
        let run = RunDir::create(files.folder, owner, uid)?;
        for file in &files.files {
            run.link(file.role, file.fd)?;
            if file.how == Use::Owned {
                drives::give(file.fd, uid, owner)?;
            }
        }
        let mut disk = None;
        if let Some(snapshot) = files.snapshot {
            let device = self.make_snapshot(vm, snapshot)?;
            run.node(Role::Drive(DriveRole::Root), device)?;
            disk = Some((rustix::fs::major(device), rustix::fs::minor(device)));
        }
        let user = User { uid, groups, disk };
        let (mut vmm, mut backend) = match (&self.config.slice, spec.vmm) {
            (Some(slice), _) => self.start_unit(slice, vm, spec, run, user)?,
            (None, VmmSpec::Qemu { accel }) => {
                let (vmm, backend) = self.start_qemu(vm, spec, accel, run, uid, groups)?;
                (vmm, Some(backend))
            }
            (None, VmmSpec::Firecracker {}) => {
                (self.start_firecracker(vm, spec, run, uid, groups)?, None)
            }
        };
        if let Some(entry) = self.ledger.vmms.get_mut(vm) {
            entry.vmm = Some(vmm.identity.clone());
            entry.backend = backend.as_ref().map(|backend| backend.identity.clone());
        }
        if let Err(refusal) = self.save() {
            vmm.end();
            if let Some(backend) = &mut backend {
                backend.end();
            }
            return Err(refusal);
        }
        Ok(launched(vmm, backend))
    }

    /// The vsock backend, which listens before the VMM is there, and QEMU with its tap open.
    fn start_qemu(
        &self,
        vm: &VmId,
        spec: &LaunchSpec,
        accel: Accel,
        run: RunDir,
        uid: u32,
        groups: &[u32],
    ) -> Result<(Started, Started), Refusal> {
        let [vhost, host] = [run.listen("vhost")?, run.listen("v")?];
        let [vmm_log, backend_log] = [run.log("vmm.log")?, run.log("backend.log")?];
        let run = run.hand_over()?;
        let tap = spec.mac.map(|_| self.attach_tap(vm, uid)).transpose()?;
        let place = Place {
            directory: run.as_fd(),
            uid,
            groups: &[],
        };
        let program = &self.config.vhost_vsock;
        let mut backend = spawn::backend(program, place, &vhost, &host, backend_log)?;
        let place = Place { groups, ..place };
        let fd = tap.as_ref().map(std::os::fd::AsRawFd::as_raw_fd);
        let args = qemu_args(vm, spec, accel, fd.map(QemuTap::Fd));
        match spawn::vmm(&self.config.qemu, args, place, tap.as_ref(), vmm_log) {
            Ok(vmm) => Ok((vmm, backend)),
            Err(refusal) => {
                backend.end();
                Err(refusal)
            }
        }
    }

    /// Firecracker alone. It makes its sockets itself, and attaches to the tap by its name, which
    /// only its user may.
    fn start_firecracker(
        &self,
        vm: &VmId,
        spec: &LaunchSpec,
        run: RunDir,
        uid: u32,
        groups: &[u32],
    ) -> Result<Started, Refusal> {
        let log = run.log("vmm.log")?;
        let run = run.hand_over()?;
        if spec.mac.is_some() {
            // The tap has one queue: ours is let go of before Firecracker asks for it.
            drop(self.attach_tap(vm, uid)?);
        }
        let place = Place {
            directory: run.as_fd(),
            uid,
            groups,
        };
        spawn::vmm(self.firecracker()?, firecracker_args(vm), place, None, log)
    }

    /// Either VMM as a unit of systemd's, with its backend. Both make their sockets and logs themselves, and
    /// attach to the tap by its name.
    fn start_unit(
        &self,
        slice: &str,
        vm: &VmId,
        spec: &LaunchSpec,
        run: RunDir,
        user: User<'_>,
    ) -> Result<(Started, Option<Started>), Refusal> {
        let run = run.hand_over()?;
        if spec.mac.is_some() {
            drop(self.attach_tap(vm, user.uid)?);
        }
        let name = TapName::of(vm);
        let tap = spec.mac.map(|_| QemuTap::Name(name.as_str()));
        let (program, args, kvm) = match spec.vmm {
            VmmSpec::Qemu { accel } => {
                let args = qemu_args(vm, spec, accel, tap);
                (self.config.qemu.as_path(), args, accel == Accel::Kvm)
            }
            VmmSpec::Firecracker {} => (self.firecracker()?, firecracker_args(vm), true),
        };
        let unit = UnitSpec {
            vm,
            slice,
            runtime_dir: &self.config.runtime_dir,
            run: &systemd::path_of(&run)?,
            uid: user.uid,
            groups: user.groups,
            launcher: &self.config.vhost_vsock,
            vmm: program,
            args: &args,
            backend: matches!(spec.vmm, VmmSpec::Qemu { .. }),
            kvm,
            disk: user.disk,
        };
        systemd::start(&unit, &run)
    }

    fn firecracker(&self) -> Result<&Path, Refusal> {
        self.config.firecracker.as_deref().ok_or_else(|| {
            let message = "this helper was started without a Firecracker; install one and start \
                           the helper again";
            refuse(RefusalCode::HostNotReady, message)
        })
    }

    /// What the launch needs besides files.
    fn check_host(&self, vm: &VmId, spec: &LaunchSpec) -> Result<Vec<u32>, Refusal> {
        if let Some(mac) = spec.mac {
            if mac != vm.mac() {
                let message = format!("{mac} is not the MAC of the VM {vm}");
                return Err(refuse(RefusalCode::Invalid, message));
            }
            if !self.ledger.taps.contains_key(vm) {
                return Err(refuse(
                    RefusalCode::Unknown,
                    format!("the VM {vm} has no tap"),
                ));
            }
        }
        if spec.root_is_snapshot() {
            root_disk::check_host()?;
        }
        match spec.vmm {
            VmmSpec::Qemu { accel } => {
                check_program(&self.config.qemu)?;
                check_program(&self.config.vhost_vsock)?;
                match accel {
                    Accel::Kvm => spawn::kvm_groups(),
                    Accel::Tcg => Ok(vec![]),
                }
            }
            VmmSpec::Firecracker {} => {
                check_program(self.firecracker()?)?;
                if self.config.slice.is_some() {
                    check_program(&self.config.vhost_vsock)?;
                }
                spawn::kvm_groups()
            }
        }
    }

    fn check_count<'a>(
        &self,
        spec: &LaunchSpec,
        fds: &'a [OwnedFd],
    ) -> Result<BorrowedFd<'a>, Refusal> {
        let expected = 3 + spec.drive_fds();
        let Some(folder) = fds.first().filter(|_| fds.len() == expected) else {
            let message = format!(
                "{expected} descriptors belong to this launch, not {}",
                fds.len()
            );
            return Err(refuse(RefusalCode::Descriptor, message));
        };
        let facts = Facts::of(folder.as_fd(), self.config.owner)?;
        drives::check_folder(&facts, self.config.owner)?;
        Ok(folder.as_fd())
    }

    /// Removes what an earlier launch of this VM left. Refused while it runs.
    fn clear_way(&mut self, vm: &VmId, folder: BorrowedFd<'_>) -> Result<(), Refusal> {
        if let Some(entry) = self.ledger.vmms.get(vm) {
            if !process::running_as(entry.uid).is_empty() {
                let message = format!("the VM {vm} is running (or its backend is)");
                return Err(refuse(RefusalCode::Busy, message));
            }
            return self.forget(vm, Some(folder));
        }
        run_dir::remove(folder, self.config.owner, |uid| self.may_run(uid))
    }

    fn check_files<'a>(
        &self,
        vm: &VmId,
        spec: &LaunchSpec,
        fds: &'a [OwnedFd],
    ) -> Result<Files<'a>, Refusal> {
        let owner = self.config.owner;
        let mut files = vec![];
        for ((role, read_only), file) in drives::roles(spec).into_iter().zip(&fds[1..]) {
            let facts = Facts::of(file.as_fd(), owner)?;
            let stray = |uid| !self.may_run(uid);
            let how = drives::decide(role, read_only, &facts, owner, stray).map_err(|refusal| {
                Refusal {
                    message: format!("{vm}: {refusal}"),
                    ..refusal
                }
            })?;
            let fd = file.as_fd();
            files.push(File {
                role,
                how,
                fd,
                facts,
            });
        }
        let of_snapshot = |file: &File<'_>| {
            let root = Role::Drive(DriveRole::Root);
            spec.root_is_snapshot() && (file.role == root || file.role == Role::Base)
        };
        let (parts, files): (Vec<_>, Vec<_>) = files.into_iter().partition(of_snapshot);
        let snapshot = match &parts[..] {
            [store, base] => {
                root_disk::check_files(&store.facts, &base.facts)?;
                let (store, base) = (store.fd, base.fd);
                Some(SnapshotFiles { store, base })
            }
            _ => None,
        };
        Ok(Files {
            folder: fds[0].as_fd(),
            files,
            snapshot,
        })
    }

    /// Whether a VMM's user may have processes: of this helper's VMs, of another helper's, or of
    /// nobody's.
    pub(crate) fn may_run(&self, uid: u32) -> bool {
        self.ledger.vmms.values().any(|entry| entry.uid == uid)
            || self.claims.is_foreign(uid)
            || !process::running_as(uid).is_empty()
    }
}

fn launched(vmm: Started, backend: Option<Started>) -> Launched {
    let identity = backend.as_ref().map(|backend| backend.identity.clone());
    let started: Vec<Started> = [Some(vmm), backend].into_iter().flatten().collect();
    let vmm = started[0].identity.clone();
    let (children, pidfds): (Vec<_>, Vec<_>) = started
        .into_iter()
        .map(|started| (started.child, started.pidfd))
        .unzip();
    spawn::reap(children.into_iter().flatten());
    Launched {
        vmm,
        backend: identity,
        pidfds,
    }
}

fn check_program(program: &Path) -> Result<(), Refusal> {
    let found = std::fs::metadata(program);
    let found = found.or_refuse_as(RefusalCode::HostNotReady, || {
        format!("{} is missing", program.display())
    })?;
    if found.is_file() {
        return Ok(());
    }
    Err(refuse(
        RefusalCode::HostNotReady,
        format!("{} is not a program", program.display()),
    ))
}
