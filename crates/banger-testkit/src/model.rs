//! What is on the modelled host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use banger_core::VmId;
use banger_engine::ports::Farewell;

/// A VM's files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Folder {
    pub(crate) overlay: bool,
    pub(crate) work_disk: bool,
    pub(crate) config: bool,
}

/// A VM's processes.
#[derive(Debug, Clone)]
pub(crate) struct Vmm {
    pub(crate) pid: u32,
    pub(crate) backend: Option<u32>,
    /// Whether the guest was started in it: a Firecracker waits to be told.
    pub(crate) has_guest: bool,
    pub(crate) lives: bool,
    pub(crate) farewell: Option<Farewell>,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) network: bool,
    /// Whether no agent answers.
    pub(crate) guests_hang: bool,
    pub(crate) folders: BTreeMap<VmId, Folder>,
    pub(crate) taps: BTreeMap<VmId, (Ipv4Addr, bool)>,
    pub(crate) vmms: BTreeMap<VmId, Vmm>,
    pub(crate) names: BTreeSet<String>,
    pub(crate) launches: u32,
}
