//! Firecracker: its versions, a typed client of its API socket (checked against the official API
//! document in `tests/firecracker_api.rs`), and how a guest is booted in it.

mod api;
mod boot;
mod client;
mod micro_vm;
mod request;
mod version;

pub use api::{
    Action, Balloon, BalloonStats, BalloonStatsUpdate, BalloonUpdate, BootSource, CacheType, Drive,
    Entropy, InstanceInfo, InstanceState, LogLevel, Logger, MachineConfig, MemoryBackend,
    MemoryBackendType, Metrics, NetworkInterface, NetworkOverride, Serial, SnapshotCreate,
    SnapshotLoad, SnapshotType, VmStateChange, Vsock, VsockOverride,
};
pub use boot::{BootError, BootStage, boot, has_guest, instance_state};
pub use client::{FirecrackerClient, FirecrackerError};
pub use micro_vm::{MicroVm, MicroVmDrive};
pub use request::Request;
pub use version::{
    FirecrackerBinaryError, FirecrackerVersion, ParseVersionError, probe_firecracker,
};
