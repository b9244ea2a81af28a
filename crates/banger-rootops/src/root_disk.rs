//! Root disks that the kernel makes: device-mapper snapshots over a shared read-only base.

use banger_root_proto::{Refusal, RefusalCode, SnapshotSupport};

use crate::refuse::refuse;

const WHY: &str = "this helper makes no device-mapper snapshots yet";

/// Whether this host can have them.
pub(crate) fn support() -> SnapshotSupport {
    SnapshotSupport::Missing { why: WHY.into() }
}

/// What a launch with one is told.
pub(crate) fn refused() -> Refusal {
    refuse(RefusalCode::HostNotReady, WHY)
}
