//! Operations: things that take long enough to watch.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ApiError, SpecLine};

/// Something that the daemon does, with its stages. `GET /v1/operations/{id}`; the same with
/// `/events` streams [`OperationEvent`]s as NDJSON, from the first one; `DELETE` cancels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// What is done.
    pub kind: OperationKind,
    /// Name of the VM, image or kernel.
    pub subject: String,
    /// Id of the VM, when it is about one.
    pub vm_id: Option<String>,
    /// How far it is.
    pub state: OperationState,
    /// The stages so far.
    pub stages: Vec<Stage>,
    /// Why it failed.
    pub error: Option<ApiError>,
    /// The effective sizes, for a create.
    pub spec: Option<SpecLine>,
    /// What a VM that was started has to do without.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Operation {
    /// Whether a guest that was asked to shut down did not, in its time, and was ended by force.
    #[must_use]
    pub fn was_forced(&self) -> bool {
        let forced = |stage: &Stage| stage.key == "shutdown" && stage.state == StageState::Failed;
        self.state == OperationState::Succeeded && self.stages.iter().any(forced)
    }
}

/// The operation that works on a VM: whoever lost sight of it finds it again by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AtWork {
    /// Of the [`Operation`], twelve hexadecimal digits.
    pub id: String,
    /// What is done.
    pub kind: OperationKind,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Create (and start) a VM.
    CreateVm,
    /// Start a VM.
    StartVm,
    /// Stop a VM.
    StopVm,
    /// Stop a VM and start it again.
    RestartVm,
    /// End a VM's VMM by a signal.
    KillVm,
    /// Change a VM's sizes or NAT.
    SetVm,
    /// Delete a VM.
    DeleteVm,
    /// Build an image.
    BuildImage,
    /// Pull an image.
    PullImage,
    /// Register an image.
    RegisterImage,
    /// Copy a registered image's files into the store.
    PromoteImage,
    /// Import a kernel.
    ImportKernel,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It goes on.
    Running,
    /// It is done.
    Succeeded,
    /// It failed; what was made is kept for inspection unless the error says otherwise.
    Failed,
    /// It was cancelled; what it made is gone.
    Cancelled,
}

impl OperationKind {
    /// As clients write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateVm => "create_vm",
            Self::StartVm => "start_vm",
            Self::StopVm => "stop_vm",
            Self::RestartVm => "restart_vm",
            Self::KillVm => "kill_vm",
            Self::SetVm => "set_vm",
            Self::DeleteVm => "delete_vm",
            Self::BuildImage => "build_image",
            Self::PullImage => "pull_image",
            Self::RegisterImage => "register_image",
            Self::PromoteImage => "promote_image",
            Self::ImportKernel => "import_kernel",
        }
    }
}

impl OperationState {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Running)
    }
}

/// One stage of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stage {
    /// Stable key: `image kernel root_disk work_disk network boot agent ready …`.
    pub key: String,
    /// What people read: `building image debian-bookworm`.
    pub title: String,
    /// How far.
    pub state: StageState,
    /// Milliseconds it took, or has taken.
    pub elapsed_ms: u64,
    /// The latest line of its progress.
    pub detail: Option<String>,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// It goes on.
    Running,
    /// Done.
    Done,
    /// Failed.
    Failed,
}

/// One line of the event stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum OperationEvent {
    /// The operation as it stands: first line of a stream.
    Snapshot {
        /// All of it.
        operation: Operation,
    },
    /// A stage began, moved or ended. Stages are named by their key.
    Stage {
        /// As it now stands.
        stage: Stage,
    },
    /// Nothing more follows.
    Finished {
        /// All of it.
        operation: Operation,
    },
}
