//! VMs.

use std::path::PathBuf;

use banger_core::{
    ByteSize, Choice, ImageName, KernelName, KillSignal, MemoryMib, SpecOrigins, VmName, VmmKind,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The `Upgrade` token of `POST /v1/vms/{ref}/connect`. After the `101` the client sends one byte;
/// the daemon answers with one byte that carries, by `SCM_RIGHTS`, the connected stream to the
/// guest's agent, and closes.
pub const CONNECT_PROTOCOL: &str = "banger-guest-fd";

/// Body of `POST /v1/vms`. Answers `202` with an [`crate::Operation`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateVmRequest {
    /// One DNS label; without it banger picks a free one.
    #[schema(value_type = Option<String>)]
    pub name: Option<VmName>,
    /// Without it, the default image.
    #[schema(value_type = Option<String>)]
    pub image: Option<ImageName>,
    /// Without it, the image's kernel or the default one.
    #[schema(value_type = Option<String>)]
    pub kernel: Option<KernelName>,
    /// Virtual processors.
    pub vcpu: Option<u16>,
    /// Guest memory in MiB.
    #[schema(value_type = Option<u32>)]
    pub memory_mib: Option<MemoryMib>,
    /// Work disk in bytes.
    #[schema(value_type = Option<u64>)]
    pub disk_size: Option<ByteSize>,
    /// Whether the guest reaches beyond the bridge.
    pub nat: Option<bool>,
    /// `auto`, `firecracker` or `qemu`; without it, what the configuration says. Kept with the VM.
    #[schema(value_type = Option<String>)]
    pub vmm: Option<Choice<VmmKind>>,
    /// A file on this host with a small ext4 file system, which the work disk is made of instead of the image's work
    /// seed; read while the request is answered. An absolute path.
    #[schema(value_type = Option<String>)]
    pub work_seed: Option<PathBuf>,
    /// Provision only.
    pub no_start: bool,
    /// The VM is to be thrown away: flushes need not reach the disk.
    pub ephemeral: bool,
    /// When the operation is done; default `ready`.
    pub wait: Option<Readiness>,
    /// Deadline of the boot in seconds; without it 90 (KVM) or 300 (emulation).
    pub timeout_s: Option<u32>,
}

/// How far the guest must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// Do not wait.
    None,
    /// The agent answers; file systems, network, names and limits are final.
    Reachable,
    /// Also what the image promises (sshd).
    Ready,
}

/// Body of `POST /v1/vms/{ref}/stop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StopVmRequest {
    /// Seconds until force; default 60, and 0 ends the VMM at once.
    pub grace_s: Option<u32>,
}

/// Body of `POST /v1/vms/{ref}/restart`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestartVmRequest {
    /// Seconds until force; default 60, and 0 ends the VMM at once.
    pub grace_s: Option<u32>,
    /// When the operation is done; default `ready`.
    pub wait: Option<Readiness>,
    /// Deadline of the boot in seconds.
    pub timeout_s: Option<u32>,
}

/// Body of `POST /v1/vms/{ref}/kill`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KillVmRequest {
    /// `KILL` (the default) or `TERM`, which the VMM gets.
    #[schema(value_type = String)]
    pub signal: KillSignal,
}

/// Body of `PATCH /v1/vms/{ref}`: what is absent stays. All but `nat` needs a stopped VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SetVmRequest {
    /// Virtual processors.
    pub vcpu: Option<u16>,
    /// Guest memory in MiB.
    #[schema(value_type = Option<u32>)]
    pub memory_mib: Option<MemoryMib>,
    /// Work disk in bytes; never less than it has. Its file system grows with it.
    #[schema(value_type = Option<u64>)]
    pub disk_size: Option<ByteSize>,
    /// Whether the guest reaches beyond the bridge; also while it runs.
    pub nat: Option<bool>,
}

/// Query of `DELETE /v1/vms/{ref}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct DeleteQuery {
    /// Unless it runs, or is about to: then the operation fails with `vm_running`.
    pub only_stopped: bool,
}

/// Query of `GET /v1/vms/{ref}/logs`: the console, as bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogQuery {
    /// Go on as more is written.
    pub follow: bool,
}

/// The effective sizes and where they came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpecLine {
    /// Virtual processors.
    pub vcpu: u16,
    /// Guest memory in MiB.
    #[schema(value_type = u32)]
    pub memory_mib: MemoryMib,
    /// Work disk in bytes.
    #[schema(value_type = u64)]
    pub disk_size: ByteSize,
    /// Where each of them came from: `vcpu`, `memory_mib`, `disk_size` are `flag`, `config`, `host` or `floor`.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub origins: SpecOrigins,
}

/// A VM as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// Name.
    pub name: String,
    /// `provisioning stopped starting running paused stopping failed deleting`. A paused VM runs, but
    /// its guest stands still.
    pub phase: String,
    /// Why it is paused.
    pub pause_reason: Option<String>,
    /// `running stopped deleted`.
    pub intent: String,
    /// `none`, `reachable` or `ready`: an observation, of running VMs only.
    pub readiness: Readiness,
    /// IPv4 address.
    pub address: String,
    /// `<name>.vm`.
    pub dns_name: String,
    /// Image name.
    pub image: String,
    /// Digest of the root file system it was made from.
    pub image_digest: String,
    /// Kernel name.
    pub kernel: String,
    /// Virtual processors.
    pub vcpu: u16,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Work disk in bytes.
    pub disk_size: u64,
    /// Whether NAT is on.
    pub nat: bool,
    /// `qemu` or `firecracker`.
    pub vmm: String,
    /// What the root disk is kept in: `dm_snapshot`, `reflink`, `qcow2` or `copy`.
    pub storage: String,
    /// How full a `dm_snapshot` is, of a VM that runs and is asked for by itself (not in lists).
    pub root_fill: Option<RootFill>,
    /// Process id of the VMM while it runs.
    pub vmm_pid: Option<u32>,
    /// Whether it goes away with its first command.
    pub ephemeral: bool,
    /// When it was created.
    pub created_at: String,
    /// When the guest was started, while it runs.
    pub started_at: Option<String>,
    /// The last failure.
    pub last_error: Option<crate::ApiError>,
    /// The operation that works on it. Of several it is the first: the others wait for that, or have come to end
    /// it.
    #[serde(default)]
    pub operation: Option<crate::AtWork>,
    /// In how many seconds it will be stopped because nobody uses it (`auto_stop_stale_after`), when that is
    /// soon.
    #[serde(default)]
    pub stops_unused_in_s: Option<u64>,
    /// What did not work and can be lived without, of a VM that is asked for by itself (not in lists).
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Files.
    pub paths: VmPaths,
}

impl Vm {
    /// Whether its VMM runs, comes or goes: what there is to stop. A phase that is not known here counts.
    #[must_use]
    pub fn is_up(&self) -> bool {
        let down = ["provisioning", "stopped", "failed", "deleting"];
        !down.contains(&self.phase.as_str())
    }
}

/// How full the store of a root disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootFill {
    /// What the guest has written, in bytes; unknown when a write has failed.
    pub used_bytes: Option<u64>,
    /// What fits: every block of the disk, so more is never needed.
    pub total_bytes: Option<u64>,
    /// What is wrong, and what to do.
    pub warning: Option<String>,
}

/// Where a VM's files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmPaths {
    /// The disk for `/`: an overlay, a store of changed blocks, or a copy.
    pub overlay: String,
    /// The work disk for `/root`.
    pub work_disk: String,
    /// The console log of all boots.
    pub console_log: String,
    /// The VMM's own log.
    pub vmm_log: String,
}

/// Reply of `GET /v1/vms`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmList {
    /// By name.
    pub vms: Vec<Vm>,
}

/// Reply of `GET /v1/vms/{ref}/ssh`: what ssh needs to log in without a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SshTarget {
    /// Address.
    pub host: String,
    /// User.
    pub user: String,
    /// Private key of the owner's.
    pub identity_file: String,
    /// File with the guests' host keys.
    pub known_hosts: String,
    /// Name under which this guest's stands there.
    pub host_key_alias: String,
}

/// Reply of `GET /v1/ssh`: what ssh needs for any VM of this daemon's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SshAccess {
    /// User.
    pub user: String,
    /// Private key of the owner's.
    pub identity_file: String,
    /// File with the guests' host keys, by their names under `.vm`.
    pub known_hosts: String,
}
