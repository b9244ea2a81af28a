//! What the helper answers.

use std::net::Ipv4Addr;

use banger_core::VmId;
use serde::{Deserialize, Serialize};

use crate::{NamesRouting, NetworkFacts, NetworkRepair};

/// One reply for each request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `Hello`.
    Hello {
        /// The helper's protocol.
        protocol: u32,
        /// The helper's package version.
        version: String,
        /// The helper's process id.
        pid: u32,
        /// The bridge's name.
        bridge: String,
        /// The host's address on it.
        bridge_ip: Ipv4Addr,
        /// Bits of the subnet's prefix.
        prefix: u8,
        /// Whether root disks can be snapshots.
        snapshots: SnapshotSupport,
        /// Where its Firecracker is, when it was given one.
        firecracker: Option<String>,
    },
    /// Done; nothing to tell.
    Done {},
    /// To `LaunchVmm`, with a pidfd for each process (`pidfd_open(2)`), VMM first.
    Launched {
        /// The VMM.
        vmm: ProcessIdentity,
        /// The vsock backend, of a VMM that needs one.
        backend: Option<ProcessIdentity>,
    },
    /// To `ProbeVmm`, with a pidfd for each process that is ours and alive, VMM first.
    Probed {
        /// The VMM.
        vmm: ProcessState,
        /// The vsock backend, of a VMM that needs one.
        backend: Option<ProcessState>,
    },
    /// To `List`.
    Owned(OwnedFacts),
    /// To `TendNetwork`.
    Tended {
        /// What was put right.
        repairs: Vec<NetworkRepair>,
        /// Who asks our server for `.vm`; none without a network.
        names: Option<NamesRouting>,
    },
    /// To `InspectNetwork`.
    Network(NetworkFacts),
    /// To `OpenGuestDns`, with two descriptors: UDP, then TCP (listening).
    GuestDns {},
    /// Nothing was done.
    Refused(Refusal),
}

/// What tells a process from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub start_ticks: u64,
    /// The boot it belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Device of the executable.
    pub exe_dev: u64,
    /// Inode of the executable.
    pub exe_ino: u64,
}

/// What has become of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ProcessState {
    /// It lives, and is what was launched.
    Alive(ProcessIdentity),
    /// It ended (a zombie counts), or was never launched.
    Gone {},
}

/// Everything of the owner's that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedFacts {
    /// Whether bridge and firewall table stand.
    pub network: bool,
    /// The taps.
    pub taps: Vec<OwnedTap>,
    /// The VMMs in the ledger.
    pub vmms: Vec<OwnedVmm>,
}

/// A tap of the owner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedTap {
    /// Whose.
    pub vm: VmId,
    /// The guest address it is pinned to.
    pub address: Ipv4Addr,
    /// Whether NAT is on.
    pub nat: bool,
}

/// A VMM of the owner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedVmm {
    /// Whose.
    pub vm: VmId,
    /// The VMM process.
    pub vmm: ProcessState,
    /// Whether it lives and was stopped by a signal (`T` in proc_pid_stat(5)).
    pub paused: bool,
    /// The vsock backend, of a VMM that needs one.
    pub backend: Option<ProcessState>,
    /// How full the store of its root disk is, when that is a snapshot that stands.
    pub store: Option<StoreFill>,
}

/// How full the store of a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StoreFill {
    /// So many bytes of so many, metadata included.
    Used {
        /// What the guest has written, in whole chunks.
        used_bytes: u64,
        /// What fits.
        total_bytes: u64,
    },
    /// A write to the store failed and the kernel has given it up: every access fails until the VM
    /// is started again.
    Invalid {},
}

/// Whether the kernel can make snapshots (device-mapper's `snapshot` target).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SnapshotSupport {
    /// It can.
    Works {},
    /// It cannot.
    Missing {
        /// Why.
        why: String,
    },
}

/// Why the helper did not do it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind.
    pub code: RefusalCode,
    /// What failed, for people.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The request is malformed or a value out of range.
    Invalid,
    /// Another protocol.
    Protocol,
    /// A descriptor is missing or of the wrong kind or owner.
    Descriptor,
    /// A quota is reached.
    Quota,
    /// The name or subnet is used by something that is not ours.
    Conflict,
    /// It is in use.
    Busy,
    /// The helper does not know it.
    Unknown,
    /// No space left.
    DiskFull,
    /// A program or kernel feature is missing.
    HostNotReady,
    /// The system refused.
    System,
}
