//! What VMs use. Figures of the guest are its own word; counters grow from its start on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::RootFill;

/// Reply of `GET /v1/stats`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatsList {
    /// Every VM, by name.
    pub vms: Vec<VmStats>,
}

/// Reply of `GET /v1/vms/{ref}/stats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmStats {
    /// The VM's name.
    pub vm: String,
    /// Its id.
    pub id: String,
    /// What it does.
    pub phase: String,
    /// What the host sees of it, while it runs.
    pub host: Option<HostFigures>,
    /// What the guest says of itself, while it runs and answers.
    pub guest: Option<GuestFigures>,
    /// Why the guest says nothing.
    pub guest_problem: Option<String>,
    /// Its disks on the host.
    pub disks: Vec<DiskFigures>,
}

/// What the host sees of a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostFigures {
    /// How busy the VMM is, in hundredths of one processor, since the last look.
    pub cpu_percent: Option<f64>,
    /// Processor time that the VMM has used.
    pub cpu_seconds: f64,
    /// Memory of the host that the VMM holds, the guest's among it, in bytes.
    pub memory: u64,
    /// Bytes that went to the guest, through its tap.
    pub network_received: Option<u64>,
    /// Bytes that came from the guest.
    pub network_sent: Option<u64>,
    /// How long the VMM has run.
    pub uptime_seconds: Option<f64>,
}

/// What a guest says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuestFigures {
    /// How busy its processors are, in hundredths of one processor, since the last look.
    pub cpu_percent: Option<f64>,
    /// Time that its processors were busy.
    pub cpu_seconds: f64,
    /// Average number of running programs over the last minute.
    pub load: f64,
    /// Memory that its kernel manages, in bytes.
    pub memory_total: u64,
    /// Of which programs and kernel hold this much.
    pub memory_used: u64,
    /// Its processes.
    pub processes: u32,
    /// Its file systems.
    pub file_systems: Vec<FileSystemFigures>,
    /// Bytes that it took in.
    pub network_received: u64,
    /// Bytes that it sent.
    pub network_sent: u64,
    /// How long its kernel has run.
    pub uptime_seconds: f64,
}

/// A file system in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileSystemFigures {
    /// Where it is mounted.
    pub path: String,
    /// Its size in bytes.
    pub total: u64,
    /// Taken of it, in bytes.
    pub used: u64,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskFigures {
    /// `root` or `work`.
    pub disk: String,
    /// How large the guest sees it, in bytes.
    pub virtual_bytes: Option<u64>,
    /// What it takes on the host, in bytes; the image below a root disk is shared and not counted.
    pub real_bytes: u64,
    /// How full the store of a `dm_snapshot` is.
    pub fill: Option<RootFill>,
}
