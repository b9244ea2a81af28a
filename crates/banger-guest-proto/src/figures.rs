//! What a guest uses of what it has.

use serde::{Deserialize, Serialize};

/// A guest's answer to a question for its figures. Counters grow from the guest's start on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// Processors that the guest sees.
    pub cpus: u32,
    /// Time that its processors were busy, all together, in milliseconds.
    pub cpu_busy_ms: u64,
    /// Time that its processors waited for the host's, all together, in milliseconds.
    pub cpu_steal_ms: u64,
    /// Average number of running programs over the last minute, in hundredths.
    pub load_centi: u32,
    /// Memory that the guest's kernel manages, in bytes.
    pub memory_total: u64,
    /// Of which programs could have this much without swapping, in bytes.
    pub memory_available: u64,
    /// Processes.
    pub processes: u32,
    /// Bytes that its network interfaces took in (loopback not counted).
    pub network_received: u64,
    /// Bytes that they sent.
    pub network_sent: u64,
    /// Its disks' file systems.
    #[serde(default)]
    pub file_systems: Vec<FileSystem>,
}

/// A file system in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// Where it is mounted: `/` or `/root`.
    pub path: String,
    /// Its size in bytes.
    pub total: u64,
    /// Taken of it, in bytes.
    pub used: u64,
}
