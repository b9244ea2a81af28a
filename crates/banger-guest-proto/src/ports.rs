//! Which sockets of a guest wait for somebody.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The most sockets that one answer lists.
pub const MAX_LISTENERS: usize = 2048;

/// The longest name of a process or user in an answer, in bytes.
pub const MAX_OWNER_NAME: usize = 64;

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A TCP socket that listens.
    Tcp,
    /// A UDP socket that is bound and takes datagrams from anybody.
    Udp,
}

/// One socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// What it speaks.
    pub transport: Transport,
    /// The address that it is bound to; the unspecified one: every address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The user it belongs to, by number.
    pub uid: u32,
    /// And by name, where the guest has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The process that holds it (the first one, of several).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// That process's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

/// A guest's answer to a question for its ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// By transport, port and address.
    pub listeners: Vec<Listener>,
    /// There are more than [`MAX_LISTENERS`].
    #[serde(default)]
    pub cut: bool,
}
