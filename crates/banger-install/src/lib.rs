//! Installing banger on a host with systemd: what goes where is planned in pure code ([`Plan`]); writing,
//! comparing and asking systemd are the dumb rest.

mod layout;
mod owner;
mod plan;
mod programs;
mod record;
mod spec;
mod status;
mod systemd;
mod units;
mod write;

pub use layout::{
    BUILD_SOCKET, CACHE_DIR, CONFIG_DIR, HELPER_DIR, RECORD, ROOT_CONFIG, RUNTIME_DIR, STATE_DIR,
    UNITS, lib_dir,
};
pub use owner::{Owner, OwnerError};
pub use plan::{Content, Plan, PlannedFile};
pub use programs::{Programs, ProgramsError};
pub use record::{InstalledFile, Progress, Record, RecordError};
pub use spec::{InstallSpec, Network, SpecError};
pub use status::{Drift, DriftKind, Status, UnitState, drift, judge};
pub use systemd::{Systemctl, SystemdError, parse_units};
pub use write::{WriteError, check_folders, remove, write, write_record};
