//! Versions, the daemon itself, and the host's health.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One program's build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Component {
    /// Package version.
    pub version: String,
    /// Digest of the executable, so that a rebuild is told from what runs.
    pub build: String,
    /// Process id.
    pub pid: u32,
}

/// Reply of `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Newest API that the daemon speaks.
    pub api_max: u32,
    /// Oldest API that the daemon speaks.
    pub api_min: u32,
    /// The daemon.
    pub daemon: Component,
    /// The helper, when it answers.
    pub helper: HelperStatus,
}

/// The privileged helper as the daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HelperStatus {
    /// Whether it answers.
    pub available: bool,
    /// Whether a VM waits for it: then every command starts it.
    #[serde(default)]
    pub wanted: bool,
    /// Its package version.
    pub version: Option<String>,
    /// Its process id.
    pub pid: Option<u32>,
    /// Its socket.
    pub socket: String,
    /// Why it does not answer.
    pub problem: Option<String>,
}

/// Reply of `GET /v1/daemon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DaemonStatus {
    /// Builds.
    pub version: Version,
    /// Owner API socket.
    pub socket: String,
    /// Log file (JSON lines).
    pub log: String,
    /// DNS listener, or why there is none.
    pub dns: String,
    /// State directory.
    pub state_dir: String,
    /// VMs that run.
    pub running_vms: u32,
    /// VMs in all.
    pub vms: u32,
    /// When it started.
    pub started_at: String,
    /// Problems that the last reconcile found.
    pub problems: Vec<String>,
}

/// Reply of `GET /v1/doctor`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Doctor {
    /// The checks.
    pub checks: Vec<Check>,
    /// The defaults of a new VM.
    pub defaults: Vec<EffectiveDefault>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// Stable name: `kvm`, `qemu`, `helper`, …
    pub name: String,
    /// Outcome.
    pub result: CheckResult,
    /// What was found.
    pub message: String,
    /// What to do.
    pub fix: Option<String>,
}

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// Good.
    Pass,
    /// Works, but not as well as it could.
    Warn,
    /// Does not work.
    Fail,
}

/// One effective default and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EffectiveDefault {
    /// `vcpu`, `memory_mib`, …
    pub key: String,
    /// Its value.
    pub value: String,
    /// `config`, `host` (derived from what it has) or `floor` (built in).
    pub origin: String,
    /// Of one that is configured: `FILE:LINE`, or the environment's variable.
    pub source: Option<String>,
}
