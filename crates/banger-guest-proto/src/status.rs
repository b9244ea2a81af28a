//! How far a guest is.

use serde::{Deserialize, Serialize};

/// How far a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// The agent is up, but what stands below it is not final yet.
    Booting,
    /// File systems, network, names, `/tmp` and limits are final.
    Reachable,
    /// Also what the image promises is there: its default target, sshd.
    Ready,
}

/// What runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitKind {
    /// The image has no init of its own: banger's first process stays.
    Banger,
    /// systemd.
    Systemd,
    /// OpenRC, under whatever first process.
    OpenRc,
    /// Another init: sysvinit, runit, s6, ….
    #[serde(other)]
    Other,
}

/// A guest's answer to a status request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How far it is.
    pub readiness: Readiness,
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// Its host name now.
    pub hostname: String,
    /// What runs it.
    pub init: InitKind,
    /// Programs that clients have running now.
    pub sessions: u32,
    /// What went wrong while it started, one sentence each; the guest runs without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}
