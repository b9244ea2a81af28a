//! The contract between the owner's daemon and `bangerd-root`, the privileged helper: a closed
//! list of verbs, JSON in one `SOCK_SEQPACKET` datagram each way (unix(7)), file descriptors by
//! `SCM_RIGHTS`. Both ends come from one build: the protocol number must match exactly.
//!
//! A request names VMs by id and passes files as open descriptors. It never carries a path, a
//! command line, an interface name or firewall text.

mod client;
mod codec;
mod launch;
mod network;
mod reply;
mod request;

pub use client::{CallError, Client, HelperInfo};
pub use codec::{FrameError, MAX_FDS, MAX_FRAME, recv_frame, send_frame};
pub use launch::{
    Accel, CacheMode, DriveFormat, DriveRole, DriveSpec, LaunchSpec, LaunchSpecError, VmmSpec,
};
pub use network::{ForeignDrop, Hook, NamesRouting, Neighbour, NetworkFacts, NetworkRepair};
pub use reply::{
    OwnedFacts, OwnedTap, OwnedVmm, ProcessIdentity, ProcessState, Refusal, RefusalCode, Reply,
    SnapshotSupport, StoreFill,
};
pub use request::{Request, VmmSignal};

/// The number of this protocol. Raise it with every change of a request or reply.
pub const PROTOCOL: u32 = 6;

/// The most taps that are kept ready.
pub const MAX_TAP_POOL: u8 = 32;
