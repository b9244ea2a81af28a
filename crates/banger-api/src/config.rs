//! The configuration as it is in force.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Reply of `GET /v1/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigView {
    /// The owner's file, whether it is there or not.
    pub file: String,
    /// It has changed since the daemon read it: what it says now holds from the daemon's next start on.
    pub changed: bool,
    /// Every key; of `[[file_sync]]` as many as there are.
    pub entries: Vec<ConfigEntry>,
}

/// A key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigEntry {
    /// `vm_defaults.vcpu`, `file_sync[0].host`.
    pub key: String,
    /// What holds, as it would be written.
    pub value: String,
    /// Who says so.
    pub origin: ConfigOrigin,
    /// The file, where it is one.
    pub file: Option<String>,
    /// The line in it, from 1.
    pub line: Option<u32>,
    /// The environment's variable, where it is one.
    pub variable: Option<String>,
}

/// Who says what a key's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfigOrigin {
    /// Nobody: it is built in, or derived from the host.
    Default,
    /// The owner's `config.toml`.
    File,
    /// A variable `BANGER_…`.
    Environment,
    /// Root, on an installed host.
    Root,
}
