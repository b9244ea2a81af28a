//! The pure domain of banger: identifiers, names, sizes, what a VM is, and the total transition
//! function of its phases. Nothing here does I/O or reads a clock.

mod admission;
mod cow_store;
mod error_code;
mod guest_init;
mod ids;
mod image_ref;
mod kill_signal;
mod name;
mod network;
mod phase;
mod size;
mod spec;
mod spec_change;
mod suggest;
mod time_span;
mod vmm_kind;

pub use admission::{Answer, Situation, Turn, Verb, VmmState, answer, turn};
pub use cow_store::{
    COW_CHUNK_SECTORS, COW_HEADER, COW_VALID_AT, CowStoreState, SECTOR, cow_store_size,
    cow_store_state,
};
pub use error_code::{ErrorCode, ExitCode};
pub use guest_init::{FoundInit, ImageFiles, InitFamily, find_init};
pub use ids::{Digest, OpId, ParseIdError, TapName, VmId};
pub use image_ref::{DEFAULT_REGISTRY, ImageRef, ParseImageRefError, RegistryRef};
pub use kill_signal::{KillSignal, ParseSignalError};
pub use name::{ImageName, KernelName, ParseNameError, VmName};
pub use network::{NetworkPlan, NetworkPlanError, NetworkSettings};
pub use phase::{Event, Phase, Rejected, step_phase};
pub use size::{ByteSize, MemoryMib, ParseSizeError};
pub use spec::{Intent, MacAddr, SpecError, SpecOrigin, SpecOrigins, VmSpec};
pub use spec_change::{ChangeError, SpecChange};
pub use suggest::nearest;
pub use time_span::{ParseTimeSpanError, TimeSpan};
pub use vmm_kind::{Choice, ParseWordError, RootStorage, VmmKind};
