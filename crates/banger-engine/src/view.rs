//! A VM as the engine shows it.

use std::net::Ipv4Addr;

use banger_core::{
    Digest, ImageName, Intent, KernelName, Phase, SpecOrigins, VmId, VmName, VmSpec,
};
use banger_store::VmRow;

use crate::pausing::PauseReason;
use crate::ports::{Failure, GuestState};

/// A VM: what is durable of it, and what was last observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmView {
    /// Identity.
    pub id: VmId,
    /// Name.
    pub name: VmName,
    /// What its task is doing.
    pub phase: Phase,
    /// What the owner wants.
    pub intent: Intent,
    /// Its sizes.
    pub spec: VmSpec,
    /// Where they came from.
    pub origins: SpecOrigins,
    /// Image.
    pub image: ImageName,
    /// The artefact it was created from.
    pub image_digest: Option<Digest>,
    /// Kernel.
    pub kernel: Option<KernelName>,
    /// Address on the bridge.
    pub address: Ipv4Addr,
    /// How far the guest is, while it runs.
    pub readiness: Option<GuestState>,
    /// Process id of the VMM, while it runs.
    pub vmm_pid: Option<u32>,
    /// Why its guest stands still, while it does: an observation like the two above.
    pub paused: Option<PauseReason>,
    /// Whether it goes away with its first command.
    pub ephemeral: bool,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC.
    pub started_at: Option<String>,
    /// The last failure.
    pub last_error: Option<Failure>,
}

impl VmView {
    /// Whether it is about to run.
    pub(crate) fn comes_up(&self) -> bool {
        match self.phase {
            Phase::Provisioning | Phase::Starting => true,
            // Within a restart, or between a create's two halves.
            Phase::Stopped | Phase::Stopping => self.intent == Intent::Running,
            Phase::Running | Phase::Failed | Phase::Deleting => false,
        }
    }

    pub(crate) fn of(row: &VmRow) -> Self {
        Self {
            id: row.id.clone(),
            name: row.name.clone(),
            phase: row.phase,
            intent: row.intent,
            spec: row.spec.clone(),
            origins: row.origins,
            image: row.image.clone(),
            image_digest: row.image_digest.clone(),
            kernel: row.kernel.clone(),
            address: row.address,
            readiness: None,
            vmm_pid: None,
            paused: None,
            ephemeral: row.ephemeral,
            created_at: row.created_at.clone(),
            started_at: row.started_at.clone(),
            last_error: row.failure.as_deref().and_then(read_failure),
        }
    }
}

/// A failure as it is stored.
pub(crate) fn write_failure(failure: &Failure) -> Option<String> {
    serde_json::to_string(failure).ok()
}

fn read_failure(json: &str) -> Option<Failure> {
    serde_json::from_str(json).ok()
}
