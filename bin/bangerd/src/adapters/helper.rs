//! The privileged helper: one blocking connection, made again when it breaks.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use banger_core::{ErrorCode, KillSignal, RootStorage, VmId, VmmKind};
use banger_dns::DnsServer;
use banger_engine::locked_up;
use banger_engine::ports::{
    ExitFacts, Failure, LaunchRequest, RootHelper, TapFacts, VmFacts, VmmFacts,
};
use banger_guest::GuestAddress;
use banger_root_proto::{
    Accel, CacheMode, CallError, Client, DriveFormat, DriveRole, DriveSpec, HelperInfo, LaunchSpec,
    OwnedVmm, ProcessState, RefusalCode, Reply, Request, StoreFill, VmmSignal, VmmSpec,
};
use banger_vmm::resume_guest;
use futures_util::future::join_all;
use rustix::fs::{Mode, OFlags};

use super::network::{self, NetworkNeeds};
use super::writes::Writes;
use super::{blocking, console, firecracker};
use crate::args::Args;
use crate::vm_folder;

/// How long QEMU's monitor may take to answer.
const QMP_PATIENCE: Duration = Duration::from_secs(2);

/// How long a VMM may take to vanish after its backend has noticed.
const DYING: Duration = Duration::from_secs(10);

/// A handle on one of a VM's processes.
#[derive(Debug)]
enum Handle {
    /// It lives.
    Alive(OwnedFd),
    /// It has ended, or never was.
    Gone,
}

/// The command lines of guests' kernels on this host.
#[derive(Debug, Clone)]
pub(crate) struct BootArgs {
    pub(crate) qemu: String,
    pub(crate) firecracker: String,
}

/// The connection, and what a launch needs to know of this host.
#[derive(Debug)]
pub(crate) struct HelperLink {
    socket: PathBuf,
    vms: PathBuf,
    accel: Accel,
    boot_args: BootArgs,
    client: Arc<Mutex<Option<Client>>>,
    pub(super) network: NetworkNeeds,
    pub(super) guest_dns: tokio::sync::Mutex<Option<DnsServer>>,
    /// What was last said of the names' routing, so that it is said once.
    pub(super) names_problem: Mutex<Option<String>>,
    /// Of guests to their consoles.
    writes: Writes,
}

impl HelperLink {
    pub(crate) fn new(
        args: &Args,
        accel: Accel,
        boot_args: BootArgs,
        network: NetworkNeeds,
    ) -> Self {
        Self {
            socket: args.helper_socket.clone(),
            vms: args.state_dir.join("vms"),
            accel,
            boot_args,
            client: Arc::default(),
            network,
            guest_dns: tokio::sync::Mutex::default(),
            names_problem: Mutex::default(),
            writes: Writes::default(),
        }
    }

    /// What the connected helper said of itself.
    pub(crate) fn connected(&self) -> Option<HelperInfo> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.as_ref().map(|client| client.info().clone())
    }

    /// What the helper says of itself, on a connection that works.
    pub(crate) async fn info(&self) -> Result<HelperInfo, Failure> {
        self.call(Request::List {}, vec![]).await?;
        self.connected().ok_or_else(|| away(&CallError::Closed))
    }

    pub(super) async fn call(
        &self,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let (client, socket) = (Arc::clone(&self.client), self.socket.clone());
        blocking(move || {
            let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
            call_on(&mut client, &socket, &request, &fds)
                .map_err(|error| call_failure(&request, &error))
        })
        .await
    }

    /// How full the stores of root disks are, where there are any.
    pub(crate) async fn stores(&self) -> Result<Vec<(VmId, StoreFill)>, Failure> {
        let (reply, _) = self.call(Request::List {}, vec![]).await?;
        let Reply::Owned(owned) = reply else {
            return Err(away(&CallError::Unexpected));
        };
        let stores = owned.vmms.into_iter();
        Ok(stores
            .filter_map(|vmm| Some((vmm.vm, vmm.store?)))
            .collect())
    }

    async fn send_signal(&self, vm: &VmId, signal: VmmSignal) -> Result<(), Failure> {
        let vm = vm.clone();
        self.call(Request::SignalVmm { vm, signal }, vec![])
            .await
            .map(drop)
    }

    fn folder(&self, vm: &VmId) -> PathBuf {
        self.vms.join(vm.as_str())
    }

    /// Resolves when the guest has halted and its agent answers no more. Whoever waits takes its VMM down.
    async fn halted(&self, vm: &VmId) {
        let folder = self.folder(vm);
        let agent = GuestAddress::new(folder.join(vm_folder::AGENT));
        loop {
            console::halts(&self.writes, &folder.join(vm_folder::CONSOLE)).await;
            // Anybody may write to a console.
            let answer = tokio::time::timeout(ANSWER, agent.dial()).await;
            if !matches!(answer, Ok(Ok(_))) {
                return;
            }
        }
    }

    /// VMM, and the backend of one that needs it.
    async fn probe(&self, vm: &VmId) -> Result<(Handle, Option<Handle>), Failure> {
        let (reply, fds) = self
            .call(Request::ProbeVmm { vm: vm.clone() }, vec![])
            .await?;
        let Reply::Probed { vmm, backend } = reply else {
            return Err(away(&CallError::Unexpected));
        };
        let mut fds = fds.into_iter();
        let mut handle = |state: &ProcessState| match state {
            ProcessState::Alive(_) => fds.next().map_or(Handle::Gone, Handle::Alive),
            ProcessState::Gone {} => Handle::Gone,
        };
        let vmm = handle(&vmm);
        Ok((vmm, backend.as_ref().map(handle)))
    }
}

fn call_on(
    client: &mut Option<Client>,
    socket: &Path,
    request: &Request,
    fds: &[OwnedFd],
) -> Result<(Reply, Vec<OwnedFd>), CallError> {
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    if let Some(connected) = client.as_ref() {
        match connected.call(request, &borrowed) {
            // A restarted helper: every verb is idempotent, so the request is made again.
            Err(CallError::Frame(_) | CallError::Closed) => *client = None,
            answer => return answer,
        }
    }
    let connected = Client::connect(socket)?;
    let answer = connected.call(request, &borrowed);
    if !matches!(answer, Err(CallError::Frame(_) | CallError::Closed)) {
        *client = Some(connected);
    }
    answer
}

pub(super) fn away(error: &CallError) -> Failure {
    Failure::because(
        ErrorCode::HelperUnavailable,
        "the privileged helper does not answer",
        error,
    )
    .hint("any `banger` command that needs it starts it again")
}

fn call_failure(request: &Request, error: &CallError) -> Failure {
    let CallError::Refused(refusal) = error else {
        return away(error);
    };
    let code = match refusal.code {
        RefusalCode::DiskFull => ErrorCode::DiskFull,
        RefusalCode::Conflict => ErrorCode::NetworkConflict,
        RefusalCode::HostNotReady => ErrorCode::HostNotReady,
        RefusalCode::Protocol => ErrorCode::VersionMismatch,
        RefusalCode::Invalid
        | RefusalCode::Descriptor
        | RefusalCode::Quota
        | RefusalCode::Busy
        | RefusalCode::Unknown
        | RefusalCode::System => ErrorCode::HelperRefused,
    };
    let mut failure = Failure::new(code, format!("the helper refused `{}`", request.verb()));
    failure.causes.push(refusal.message.clone());
    failure.causes.extend(refusal.causes.iter().cloned());
    let is_network = matches!(
        request,
        Request::EnsureNetwork {} | Request::TendNetwork { .. }
    );
    if refusal.code == RefusalCode::Conflict && is_network {
        return failure.hint(network::CONFLICT_HINT);
    }
    failure
}

#[async_trait]
impl RootHelper for HelperLink {
    async fn ensure_network(&self) -> Result<(), Failure> {
        self.bring_up_network().await
    }

    async fn ensure_tap(&self, vm: &VmId, address: Ipv4Addr, nat: bool) -> Result<(), Failure> {
        let vm = vm.clone();
        self.call(Request::EnsureTap { vm, address, nat }, vec![])
            .await?;
        // One that was ready may be used up. Without a pool there is nothing to do in the way of a start.
        if self.network.pool.load(Ordering::Relaxed) > 0 {
            self.network.changed.notify_one();
        }
        Ok(())
    }

    async fn remove_tap(&self, vm: &VmId) -> Result<(), Failure> {
        self.call(Request::RemoveTap { vm: vm.clone() }, vec![])
            .await
            .map(drop)
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<VmmFacts, Failure> {
        let (spec, files) = self.spec_of(request);
        let fds = blocking(move || open_all(&files)).await?;
        let drives = spec.drives.clone();
        let launch = Request::LaunchVmm {
            vm: request.vm.clone(),
            spec,
        };
        let (Reply::Launched { vmm, backend }, _) = self.call(launch, fds).await? else {
            return Err(away(&CallError::Unexpected));
        };
        tracing::info!(vm = %request.vm, pid = vmm.pid, "vmm launched");
        if request.spec.vmm == VmmKind::Firecracker {
            let run = self.folder(&request.vm).join("run");
            let boot_args = &self.boot_args.firecracker;
            let started = firecracker::start_guest(&run, request, &drives, boot_args).await;
            if let Err(failure) = started {
                // What it leaves is found again by the facts; the first failure is the one to tell.
                if let Err(problem) = self.remove_vmm(&request.vm).await {
                    tracing::warn!(vm = %request.vm, %problem, "a failed launch was not removed");
                }
                return Err(failure);
            }
        }
        Ok(VmmFacts {
            vmm: Some(vmm.pid),
            backend: backend.map(|backend| backend.pid),
            paused: false,
            remains: true,
        })
    }

    async fn set_nat(&self, vm: &VmId, nat: bool) -> Result<(), Failure> {
        let vm = vm.clone();
        self.call(Request::SetNat { vm, nat }, vec![])
            .await
            .map(drop)
    }

    async fn signal(&self, vm: &VmId, signal: KillSignal) -> Result<(), Failure> {
        let signal = match signal {
            KillSignal::Kill => VmmSignal::Kill,
            KillSignal::Term => VmmSignal::Term,
        };
        self.send_signal(vm, signal).await
    }

    async fn pause(&self, vm: &VmId) -> Result<(), Failure> {
        self.send_signal(vm, VmmSignal::Stop).await
    }

    async fn resume(&self, vm: &VmId) -> Result<(), Failure> {
        self.send_signal(vm, VmmSignal::Cont).await?;
        let socket = self.folder(vm).join("run/api");
        let name = vm.to_string();
        blocking(move || {
            match resume_guest(&socket, QMP_PATIENCE) {
                Ok(true) => tracing::warn!(vm = name, "QEMU goes on: it had met a full disk"),
                Ok(false) => {}
                // Another VMM, or one that ends: the exit watch is the one to tell.
                Err(error) => tracing::debug!(vm = name, %error, "QEMU was not asked to go on"),
            }
            Ok(())
        })
        .await
    }

    async fn remove_vmm(&self, vm: &VmId) -> Result<(), Failure> {
        let (_, tail) = console::end(&self.folder(vm), vm_folder::CONSOLE).await;
        if let Some(report) = locked_up(&tail) {
            tracing::warn!(%vm, report, "a guest hung");
        }
        let folder = open(&self.folder(vm), OFlags::RDONLY | OFlags::DIRECTORY);
        let fds = folder.into_iter().collect();
        self.call(Request::RemoveVmm { vm: vm.clone() }, fds)
            .await
            .map(drop)
    }

    async fn facts(&self) -> Result<Vec<(VmId, VmFacts)>, Failure> {
        let (reply, _) = self.call(Request::List {}, vec![]).await?;
        let Reply::Owned(owned) = reply else {
            return Err(away(&CallError::Unexpected));
        };
        let mut facts: HashMap<VmId, VmFacts> = HashMap::new();
        for tap in owned.taps {
            facts.entry(tap.vm).or_default().tap = Some(TapFacts {
                address: tap.address,
                nat: tap.nat,
            });
        }
        let pid = |state: &ProcessState| match state {
            ProcessState::Alive(identity) => Some(identity.pid),
            ProcessState::Gone {} => None,
        };
        let one = async |owned: &OwnedVmm| {
            let run = self.folder(&owned.vm).join("run");
            // A Firecracker that waits to be told what to do is nobody's guest.
            let has_guest = match (&owned.vmm, &owned.backend) {
                // One that is stopped answers nobody; only what had a guest is ever stopped.
                (ProcessState::Alive(_), None) if !owned.paused => {
                    firecracker::guest_lives(&run, &owned.vm).await
                }
                _ => true,
            };
            VmmFacts {
                vmm: pid(&owned.vmm).filter(|_| has_guest),
                backend: owned.backend.as_ref().and_then(pid),
                paused: owned.paused,
                remains: true,
            }
        };
        let found = join_all(owned.vmms.iter().map(one)).await;
        for (owned, found) in owned.vmms.iter().zip(found) {
            facts.entry(owned.vm.clone()).or_default().vmm = found;
        }
        Ok(facts.into_iter().collect())
    }

    async fn wait_exit(&self, vm: &VmId) -> Result<ExitFacts, Failure> {
        let (vmm, backend) = self.probe(vm).await?;
        let mut halted = std::pin::pin!(self.halted(vm));
        let backend_lost = match (vmm, backend) {
            (Handle::Alive(vmm), None) => {
                tokio::select! {
                    biased;
                    result = ended(vmm) => result?,
                    () = &mut halted => {}
                }
                false
            }
            (Handle::Alive(vmm), Some(Handle::Alive(backend))) => {
                let mut vmm_end = std::pin::pin!(ended(vmm));
                tokio::select! {
                    biased;
                    result = &mut vmm_end => { result?; false }
                    () = &mut halted => false,
                    result = ended(backend) => {
                        result?;
                        // The VMM takes its backend with it: only one that dies alone is lost.
                        tokio::time::timeout(DYING, vmm_end).await.is_err()
                    }
                }
            }
            (Handle::Alive(_), Some(Handle::Gone)) => true,
            (Handle::Gone, _) => false,
        };
        let folder = self.folder(vm);
        let (farewell, console_tail) = console::end(&folder, vm_folder::CONSOLE).await;
        let vmm_tail = match farewell {
            Some(_) => vec![],
            None => console::end(&folder, vm_folder::VMM_LOG).await.1,
        };
        Ok(ExitFacts {
            farewell,
            backend_lost,
            console_tail,
            vmm_tail,
        })
    }
}

/// How long an agent has to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// Resolves when the process of this pidfd has ended (`pidfd_open(2)`: then it is readable).
async fn ended(pidfd: OwnedFd) -> Result<(), Failure> {
    let broken = |error: &io::Error| {
        Failure::because(ErrorCode::Internal, "a process cannot be watched", error)
    };
    let watched = super::watched(pidfd).map_err(|error| broken(&error))?;
    watched
        .readable()
        .await
        .map(drop)
        .map_err(|error| broken(&error))
}

impl HelperLink {
    /// The typed launch, and the files that go with it in their documented order.
    fn spec_of(&self, request: &LaunchRequest) -> (LaunchSpec, Vec<(PathBuf, OFlags)>) {
        let folder = self.folder(&request.vm);
        let drive = |role, format, read_only| DriveSpec {
            role,
            format,
            read_only,
        };
        let root = match request.spec.storage {
            RootStorage::Qcow2 => DriveFormat::Qcow2,
            RootStorage::DmSnapshot => DriveFormat::Snapshot,
            RootStorage::Reflink | RootStorage::Copy => DriveFormat::Raw,
        };
        // A store is written by the kernel, by what we opened; all else by the VMM, on its own.
        let root_access = match root {
            DriveFormat::Snapshot => OFlags::RDWR,
            DriveFormat::Raw | DriveFormat::Qcow2 => OFlags::RDONLY,
        };
        let mut drives = vec![
            drive(DriveRole::Root, root, false),
            drive(DriveRole::Work, DriveFormat::Raw, false),
            drive(DriveRole::Config, DriveFormat::Raw, true),
        ];
        let mut files = vec![
            (folder.clone(), OFlags::RDONLY | OFlags::DIRECTORY),
            (request.kernel.vmlinux.clone(), OFlags::RDONLY),
            (request.kernel.initrd.clone(), OFlags::RDONLY),
            (folder.join(request.spec.storage.file_name()), root_access),
        ];
        if root.has_base() {
            files.push((request.image.rootfs.clone(), OFlags::RDONLY));
        }
        files.push((folder.join("work.ext4"), OFlags::RDONLY));
        files.push((folder.join("config.img"), OFlags::RDONLY));
        if let Some(modules) = &request.kernel.modules {
            drives.push(drive(DriveRole::Modules, DriveFormat::Raw, true));
            files.push((modules.clone(), OFlags::RDONLY));
        }
        let spec = LaunchSpec {
            vmm: match request.spec.vmm {
                VmmKind::Qemu => VmmSpec::Qemu { accel: self.accel },
                VmmKind::Firecracker => VmmSpec::Firecracker {},
            },
            vcpu: request.spec.vcpu,
            memory_mib: request.spec.memory_mib,
            boot_args: match request.spec.vmm {
                VmmKind::Qemu => self.boot_args.qemu.clone(),
                VmmKind::Firecracker => self.boot_args.firecracker.clone(),
            },
            drives,
            mac: Some(request.vm.mac()),
            cache: if request.ephemeral {
                CacheMode::Unsafe
            } else {
                CacheMode::Writeback
            },
        };
        (spec, files)
    }
}

fn open_all(files: &[(PathBuf, OFlags)]) -> Result<Vec<OwnedFd>, Failure> {
    let open_one = |(path, access): &(PathBuf, OFlags)| {
        open(path, *access).map_err(|error| {
            Failure::because(
                ErrorCode::Internal,
                format!("{} cannot be opened", path.display()),
                &error,
            )
        })
    };
    files.iter().map(open_one).collect()
}

fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(File::from(rustix::fs::open(
        path,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
    .into())
}
