//! What workspaces in a guest hold.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Reply of `GET /v1/vms/{ref}/unpulled`. What it says is the guest's word: of one that runs now, of one that does
/// not as it was when banger stopped it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnpulledList {
    /// The VM's name.
    pub vm: String,
    /// Workspaces that hold something.
    pub workspaces: Vec<UnpulledWorkspace>,
    /// Why it is not known what the workspaces hold, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// Work that is in the guest only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnpulledWorkspace {
    /// The folder in the guest.
    pub path: String,
    /// Commits that were neither sent nor pulled.
    pub commits: u64,
    /// Tags that were neither sent nor pulled.
    #[serde(default)]
    pub tags: u64,
    /// Files that are neither as they were sent nor as they were pulled; the first of them.
    pub files: Vec<String>,
    /// How many files there are beyond these.
    pub more_files: u64,
}
