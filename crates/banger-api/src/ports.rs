//! Who listens in a guest.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Reply of `GET /v1/vms/{ref}/ports`. Names in it are the guest's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortList {
    /// The VM's name.
    pub vm: String,
    /// By protocol and number.
    pub ports: Vec<Port>,
    /// The guest has more than are listed.
    pub cut: bool,
}

/// A socket in a guest that waits for somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// What it speaks.
    pub protocol: PortProtocol,
    /// Its number.
    pub port: u16,
    /// The address in the guest that it is bound to: `0.0.0.0` and `::` are all of them.
    pub bind: String,
    /// `ADDRESS:PORT` as the host reaches it; none for one that serves only the guest itself.
    pub address: Option<String>,
    /// The process that holds it.
    pub pid: Option<u32>,
    /// That process's name.
    pub process: Option<String>,
    /// The user it belongs to, by number.
    pub uid: u32,
    /// And by name.
    pub user: Option<String>,
    /// Where a web server answers.
    pub url: Option<String>,
    /// The status of its answer to `GET /`.
    pub http_status: Option<u16>,
}

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl PortProtocol {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}
