//! What the engine needs of the world. The daemon wires adapters to these traits; the test kit
//! implements them on a model of a host.
//!
//! `ensure_*` is an idempotent create, `remove_*` an idempotent delete (absent is Ok). Everything
//! returns [`Failure`]: the adapter walks its error's chain once, where it knows what to do about it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use banger_core::{
    ByteSize, Digest, ErrorCode, ImageName, KernelName, KillSignal, OpId, RootStorage, VmId,
    VmName, VmSpec,
};
use serde::{Deserialize, Serialize};

/// Why something did not work, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// Stable code.
    pub code: ErrorCode,
    /// What failed.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do.
    pub hints: Vec<String>,
    /// The operation that stands in the way, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OpId>,
}

impl Failure {
    /// A failure with a code and a message.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: vec![],
            hints: vec![],
            operation: None,
        }
    }

    /// The message and all that led to it, in one line.
    #[must_use]
    pub fn in_full(&self) -> String {
        let parts = std::iter::once(&self.message).chain(&self.causes);
        parts.map(String::as_str).collect::<Vec<_>>().join(": ")
    }

    /// A failure with the chain of causes of `error`. One that says that a file system is full is no
    /// defect, whatever was being done.
    #[must_use]
    pub fn because(
        code: ErrorCode,
        message: impl Into<String>,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let chain = || std::iter::successors(Some(error), |e| e.source());
        let code = match code {
            ErrorCode::Internal if chain().any(is_disk_full) => ErrorCode::DiskFull,
            code => code,
        };
        let failure = Self {
            causes: chain().map(ToString::to_string).collect(),
            ..Self::new(code, message)
        };
        match code {
            ErrorCode::DiskFull => failure.hint(
                "make room in the state directory's file system; `banger daemon status` names it",
            ),
            _ => failure,
        }
    }

    /// The same, with something to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let io: Option<&std::io::Error> = error.downcast_ref();
    io.is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
}

/// Where a long step says how far it is: one line at a time, shown as the stage's detail.
pub trait Progress: Send + Sync {
    /// The latest line.
    fn line(&self, text: &str);
    /// Begins a part that is worth a stage of its own; it ends with the next part, or with the step.
    fn part(&self, title: &str);
    /// Whether whoever asked has cancelled; long steps look at it and end early with
    /// [`ErrorCode::Cancelled`].
    fn cancelled(&self) -> bool;
}

/// Progress that nobody watches.
#[derive(Debug)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn line(&self, _text: &str) {}

    fn part(&self, _title: &str) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// An image, resolved to files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Its name.
    pub name: ImageName,
    /// Digest of the root file system.
    pub digest: Digest,
    /// Root file system, ext4.
    pub rootfs: PathBuf,
    /// Prepared `/root`, ext4.
    pub work_seed: Option<PathBuf>,
    /// The kernel it asks for.
    pub kernel: Option<KernelName>,
}

/// A kernel, resolved to files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedKernel {
    /// Its name.
    pub name: KernelName,
    /// Its `uname -r`.
    pub release: String,
    /// ELF image.
    pub vmlinux: PathBuf,
    /// Kernel segment and agent segment.
    pub initrd: PathBuf,
    /// Modules drive, ext4.
    pub modules: Option<PathBuf>,
}

/// The image store.
#[async_trait]
pub trait Images: Send + Sync {
    /// The image of that name; without a name the default image, built when it is missing.
    async fn ensure(
        &self,
        name: Option<&ImageName>,
        progress: &dyn Progress,
    ) -> Result<ResolvedImage, Failure>;
    /// The exact artefact that a VM was created from, also when the name now means another one.
    async fn by_digest(&self, name: &ImageName, digest: &Digest) -> Result<ResolvedImage, Failure>;
}

/// The kernel store.
#[async_trait]
pub trait Kernels: Send + Sync {
    /// The kernel of that name; without a name the default kernel, imported when it is missing.
    async fn ensure(
        &self,
        name: Option<&KernelName>,
        progress: &dyn Progress,
    ) -> Result<ResolvedKernel, Failure>;
}

/// What the guest is told about itself before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestIdentity {
    /// The VM.
    pub vm: VmId,
    /// Host name.
    pub name: VmName,
    /// Address on the bridge.
    pub address: Ipv4Addr,
    /// The kernel release, for the modules drive.
    pub kernel_release: String,
}

/// A disk that is a VM's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnDisk {
    /// What it wrote to `/`, stored that way.
    Root(RootStorage),
    /// `/root`.
    Work,
}

/// A VM's files: its folder, root disk, work disk, config drive.
#[async_trait]
pub trait Drives: Send + Sync {
    /// The VM's own folder.
    async fn ensure_folder(&self, vm: &VmId) -> Result<(), Failure>;
    /// The root disk, made from the image's root file system. Never replaces an existing one.
    async fn ensure_root_disk(
        &self,
        vm: &VmId,
        image: &ResolvedImage,
        storage: RootStorage,
    ) -> Result<(), Failure>;
    /// The work disk: what was planted for the VM, or cloned from the seed. Never replaces an existing one; finishes a growth that a
    /// dead daemon left in the middle.
    async fn ensure_work_disk(
        &self,
        vm: &VmId,
        image: &ResolvedImage,
        size: ByteSize,
    ) -> Result<(), Failure>;
    /// Makes a work disk out of that file system, for a VM that is not stored yet: `ensure_work_disk` takes it then. It
    /// is nothing of the VM's until that.
    async fn plant_work_disk(&self, vm: &VmId, seed: &Path, size: ByteSize) -> Result<(), Failure>;
    /// Removes that work disk again, unless it was taken. Absent is Ok.
    async fn uproot_work_disk(&self, vm: &VmId) -> Result<(), Failure>;
    /// VMs, stored or not, that such a disk waits for.
    async fn planted_work_disks(&self) -> Result<Vec<VmId>, Failure>;
    /// Whether the disk is there.
    async fn has_disk(&self, vm: &VmId, disk: OwnDisk) -> Result<bool, Failure>;
    /// Grows the work disk of a VM that does not run, file system included. Never shrinks it; absent is Ok.
    async fn grow_work_disk(&self, vm: &VmId, size: ByteSize) -> Result<(), Failure>;
    /// Writes the config drive anew (before each launch).
    async fn write_config(&self, identity: &GuestIdentity) -> Result<(), Failure>;
    /// The last lines of this boot's console, for people.
    async fn console_tail(&self, vm: &VmId) -> Vec<String>;
    /// Appends the last boot's console to the VM's console log. Absent console: Ok.
    async fn collect_console(&self, vm: &VmId) -> Result<(), Failure>;
    /// The VM's folder and all in it.
    async fn remove_folder(&self, vm: &VmId) -> Result<(), Failure>;
    /// Puts the folder of a VM that nobody knows aside, where it is in nobody's way; gives where it is now. One
    /// without a work disk holds nothing of anybody's, and is removed.
    async fn set_aside(&self, vm: &VmId) -> Result<Option<PathBuf>, Failure>;
    /// Which VMs have a folder.
    async fn list(&self) -> Result<Vec<VmId>, Failure>;
}

/// Everything that a launch needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchRequest {
    /// The VM.
    pub vm: VmId,
    /// Its sizes.
    pub spec: VmSpec,
    /// Image it was created from.
    pub image: ResolvedImage,
    /// Kernel it boots.
    pub kernel: ResolvedKernel,
    /// Whether flushes may be ignored.
    pub ephemeral: bool,
}

/// The processes of a VM, as the host shows them now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmmFacts {
    /// Process id of the VMM, when it lives, is ours, and has a guest in it.
    pub vmm: Option<u32>,
    /// Process id of the vsock backend, when there is one, it lives and is ours.
    pub backend: Option<u32>,
    /// Whether the VMM was stopped by a signal (`SIGSTOP`) and not continued since.
    pub paused: bool,
    /// Whether anything of them (directory, ledger entry) is there to be removed.
    pub remains: bool,
}

/// A tap of ours, as the host shows it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapFacts {
    /// The address it is pinned to.
    pub address: Ipv4Addr,
    /// Whether NAT is on.
    pub nat: bool,
}

/// What exists on the host for one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmFacts {
    /// Its processes.
    pub vmm: VmmFacts,
    /// Its tap.
    pub tap: Option<TapFacts>,
    /// Whether it has a folder.
    pub folder: bool,
}

/// The privileged helper: network, taps, VMM processes.
#[async_trait]
pub trait RootHelper: Send + Sync {
    /// Bridge, address, firewall.
    async fn ensure_network(&self) -> Result<(), Failure>;
    /// The VM's tap.
    async fn ensure_tap(&self, vm: &VmId, address: Ipv4Addr, nat: bool) -> Result<(), Failure>;
    /// Takes the VM's tap away.
    async fn remove_tap(&self, vm: &VmId) -> Result<(), Failure>;
    /// Starts the VMM with the guest in it, and its vsock backend where it needs one. A VMM of this VM
    /// that already runs is a failure; what was started of a launch that fails may remain.
    async fn launch(&self, request: &LaunchRequest) -> Result<VmmFacts, Failure>;
    /// Switches NAT of a VM whose tap exists.
    async fn set_nat(&self, vm: &VmId, nat: bool) -> Result<(), Failure>;
    /// Signals the VMM to end. Does not wait until it has.
    async fn signal(&self, vm: &VmId, signal: KillSignal) -> Result<(), Failure>;
    /// Stops the VMM where it stands (`SIGSTOP`): the guest notices nothing but lost time.
    async fn pause(&self, vm: &VmId) -> Result<(), Failure>;
    /// Lets the VMM go on, also when it has paused its guest by itself because a disk was full.
    async fn resume(&self, vm: &VmId) -> Result<(), Failure>;
    /// Ends what lives of VMM and backend, and removes their directory and ledger entry.
    async fn remove_vmm(&self, vm: &VmId) -> Result<(), Failure>;
    /// What exists, of every VM, in one go.
    async fn facts(&self) -> Result<Vec<(VmId, VmFacts)>, Failure>;
    /// Resolves when the VMM of that VM, or the backend that it needs, has ended (at once when it does
    /// not live), or when its guest has halted, which some VMMs outlive.
    async fn wait_exit(&self, vm: &VmId) -> Result<ExitFacts, Failure>;
}

/// What was seen when a VMM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitFacts {
    /// The guest's farewell on its console.
    pub farewell: Option<Farewell>,
    /// The backend died while the VMM still ran.
    pub backend_lost: bool,
    /// The end of the console, for people.
    pub console_tail: Vec<String>,
    /// The end of what the VMM itself said, likewise; of a guest that said farewell nobody asks.
    pub vmm_tail: Vec<String>,
}

/// How the guest said it would end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// `poweroff`: the VM is Stopped.
    Poweroff,
    /// `reboot`: it is started again.
    Reboot,
}

/// How far the guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestState {
    /// The agent answers and everything under it is final.
    Reachable,
    /// Also what the image promises.
    Ready,
}

/// The agent in a guest.
#[async_trait]
pub trait Guests: Send + Sync {
    /// Resolves when the guest is that far. Never gives up by itself: the caller sets the deadline
    /// and watches the VMM.
    async fn wait(&self, vm: &VmId, state: GuestState) -> Result<(), Failure>;
    /// Asks for a clean shutdown; returns when the agent has taken the request.
    async fn shutdown(&self, vm: &VmId) -> Result<(), Failure>;
}

/// A VM, as far as names go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedGuest {
    /// Its name.
    pub name: VmName,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it may ask for names of the world.
    pub nat: bool,
}

/// Names of guests, published when they change.
#[async_trait]
pub trait Names: Send + Sync {
    /// The whole zone, swapped at once.
    async fn publish(&self, names: Vec<NamedGuest>);
}

/// Room on the file system of the VMs' disks.
#[async_trait]
pub trait Space: Send + Sync {
    /// What is free for the owner.
    async fn free(&self) -> Result<ByteSize, Failure>;
}

/// Time and the identity of this boot of the host.
pub trait Clock: Send + Sync {
    /// Now, RFC 3339 in UTC.
    fn now(&self) -> String;
    /// `/proc/sys/kernel/random/boot_id`.
    fn boot_id(&self) -> String;
    /// Entropy for identifiers.
    fn entropy(&self) -> [u8; 6];
}
