//! What is on the modelled host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use banger_core::{ByteSize, VmId, VmSpec};
use banger_engine::ports::Farewell;

/// A VM's files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Folder {
    /// Another for each folder that is made.
    pub(crate) serial: u64,
    pub(crate) overlay: bool,
    pub(crate) work_disk: Option<ByteSize>,
    /// Whether that is the one that was planted for it.
    pub(crate) is_planted: bool,
    /// Whether the disks were given to a VMM and not given back.
    pub(crate) is_lent: bool,
    pub(crate) config: bool,
}

/// How a guest hangs as it boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hang {
    /// Its kernel says so.
    Said,
    /// Without a word.
    Silent,
}

/// A VM's processes.
#[derive(Debug, Clone)]
pub(crate) struct Vmm {
    pub(crate) pid: u32,
    pub(crate) backend: Option<u32>,
    /// Whether the guest was started in it: a Firecracker waits to be told.
    pub(crate) has_guest: bool,
    pub(crate) lives: bool,
    pub(crate) paused: bool,
    pub(crate) dies_when_resumed: bool,
    pub(crate) spec: VmSpec,
    pub(crate) farewell: Option<Farewell>,
    /// Whether it hangs, and how.
    pub(crate) hang: Option<Hang>,
    /// Whether somebody in the guest has killed its agent.
    pub(crate) agent_gone: bool,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) network: bool,
    /// How many wait for the end of a VM's VMM.
    pub(crate) watches: BTreeMap<VmId, usize>,
    /// Whether the helper does not answer.
    pub(crate) helper_away: bool,
    /// Whether no agent answers.
    pub(crate) guests_hang: bool,
    /// How many of the next guests hang as they boot, and how.
    pub(crate) hangs: Option<(Hang, u32)>,
    pub(crate) folders: BTreeMap<VmId, Folder>,
    /// Work disks of VMs that have not taken them yet.
    pub(crate) planted: BTreeSet<VmId>,
    pub(crate) taps: BTreeMap<VmId, (Ipv4Addr, bool)>,
    pub(crate) vmms: BTreeMap<VmId, Vmm>,
    pub(crate) names: BTreeSet<String>,
    /// Those of them that may ask for names of the world.
    pub(crate) open_names: BTreeSet<String>,
    pub(crate) launches: u32,
    /// How many guests were shut down cleanly.
    pub(crate) shutdowns: u32,
    /// How many folders were made.
    pub(crate) folders_made: u64,
    /// What is free for disks; None: plenty.
    pub(crate) free: Option<ByteSize>,
}
