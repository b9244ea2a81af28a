//! The bodies of Firecracker's API, as far as banger uses it. What may be left out is left out: an
//! older Firecracker refuses fields that it does not know.

use banger_core::MacAddr;
use serde::{Deserialize, Serialize};

/// `PUT /machine-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineConfig {
    /// 1 to 32.
    pub vcpu_count: u16,
    /// Guest memory.
    pub mem_size_mib: u32,
    /// Whether written pages are noted, for diff snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_dirty_pages: Option<bool>,
}

/// `PUT /boot-source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootSource {
    /// An ELF kernel.
    pub kernel_image_path: String,
    /// The initramfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<String>,
    /// The kernel's command line. Given, it replaces Firecracker's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}

/// Whether a flush in the guest is one on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CacheType {
    /// It is not. Firecracker's default.
    Unsafe,
    /// It is.
    Writeback,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Also the last part of the request's path.
    pub drive_id: String,
    /// The file or block device.
    pub path_on_host: String,
    /// Whether Firecracker puts it into the kernel's command line as `root=`.
    pub is_root_device: bool,
    /// Whether the guest may only read it.
    pub is_read_only: bool,
    /// Whether flushes count.
    pub cache_type: CacheType,
}

/// `PUT /network-interfaces/{iface_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    /// Also the last part of the request's path.
    pub iface_id: String,
    /// The tap.
    pub host_dev_name: String,
    /// The guest's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_mac: Option<MacAddr>,
}

/// `PUT /vsock`. Refused when something stands at the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vsock {
    /// The guest's number, 3 or more.
    pub guest_cid: u32,
    /// The socket that Firecracker makes.
    pub uds_path: String,
}

/// `PUT /entropy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Entropy {}

/// `PUT /serial`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Serial {
    /// The file that the console is written to.
    pub serial_out_path: String,
}

/// `PUT /balloon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Balloon {
    /// What it takes from the guest.
    pub amount_mib: u32,
    /// Whether the guest gets it back when it runs out of memory.
    pub deflate_on_oom: bool,
    /// How often it tells how the guest's memory is used; 0: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats_polling_interval_s: Option<u32>,
}

/// `PATCH /balloon`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BalloonUpdate {
    /// What it takes from the guest.
    pub amount_mib: u32,
}

/// `PATCH /balloon/statistics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BalloonStatsUpdate {
    /// How often; cannot be switched on or off once the guest runs.
    pub stats_polling_interval_s: u32,
}

/// Reply of `GET /balloon/statistics`. What the guest does not tell is None.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BalloonStats {
    /// What the balloon shall hold.
    pub target_mib: u64,
    /// What it holds.
    pub actual_mib: u64,
    /// In bytes: unused by anything.
    pub free_memory: Option<u64>,
    /// In bytes: all.
    pub total_memory: Option<u64>,
    /// In bytes: what new programs could have.
    pub available_memory: Option<u64>,
}

/// `PUT /metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// The file, which must exist.
    pub metrics_path: String,
}

/// How much Firecracker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum LogLevel {
    /// Failures.
    Error,
    /// And what is odd.
    Warning,
    /// And what it does.
    Info,
    /// And how.
    Debug,
}

/// `PUT /logger`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Logger {
    /// The file; without it, standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_path: Option<String>,
    /// How much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
    /// Whether each line says its level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub show_level: Option<bool>,
}

/// `PUT /actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "action_type")]
pub enum Action {
    /// Starts the guest.
    InstanceStart,
    /// Writes the metrics now.
    FlushMetrics,
    /// Presses Ctrl-Alt-Del.
    SendCtrlAltDel,
}

/// `PATCH /vm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state")]
pub enum VmStateChange {
    /// Halts the guest's processors.
    Paused,
    /// Lets them go on.
    Resumed,
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SnapshotType {
    /// All of the guest's memory.
    Full,
    /// What was written since the last one.
    Diff,
}

/// `PUT /snapshot/create`, of a paused guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotCreate {
    /// Where the guest's memory goes.
    pub mem_file_path: String,
    /// Where the state of the machine goes.
    pub snapshot_path: String,
    /// What it holds.
    pub snapshot_type: SnapshotType,
}

/// Where the memory of a snapshot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum MemoryBackendType {
    /// A file, mapped.
    File,
    /// A process that serves page faults.
    Uffd,
}

/// The memory of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryBackend {
    /// What the path is.
    pub backend_type: MemoryBackendType,
    /// The file, or the process's socket.
    pub backend_path: String,
}

/// Another tap than the snapshot's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkOverride {
    /// Which interface.
    pub iface_id: String,
    /// The tap.
    pub host_dev_name: String,
}

/// Another vsock socket than the snapshot's. Since Firecracker 1.16.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VsockOverride {
    /// The socket that Firecracker makes.
    pub uds_path: String,
}

/// `PUT /snapshot/load`, on a Firecracker that has been told nothing yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotLoad {
    /// The state of the machine.
    pub snapshot_path: String,
    /// Its memory.
    pub mem_backend: MemoryBackend,
    /// Whether the guest goes on at once.
    pub resume_vm: bool,
    /// Other taps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_overrides: Vec<NetworkOverride>,
    /// Another vsock socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_override: Option<VsockOverride>,
}

/// What a Firecracker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum InstanceState {
    /// It waits to be told; there is no guest.
    #[serde(rename = "Not started")]
    NotStarted,
    /// The guest runs.
    Running,
    /// The guest is paused.
    Paused,
}

impl InstanceState {
    /// Its word in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "Not started",
            Self::Running => "Running",
            Self::Paused => "Paused",
        }
    }
}

/// Reply of `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstanceInfo {
    /// What it was started with as `--id`.
    pub id: String,
    /// What it does.
    pub state: InstanceState,
    /// Its version.
    pub vmm_version: String,
}

/// Reply of `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct VersionInfo {
    pub(super) firecracker_version: String,
}

/// The body of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Fault {
    pub(super) fault_message: String,
}
