//! Forwarding: streams between the host and sockets on the guest's loopback.

use serde::{Deserialize, Serialize};

/// About forwarding, from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "forward", rename_all = "snake_case")]
pub enum ForwardRequest {
    /// Connects to a port on the guest's loopback. Answered by [`ForwardReply::Connected`]; from then
    /// on the connection is one stream each way: `stdin` to the guest, `stdout` from it.
    Connect {
        /// TCP port.
        port: u16,
    },
    /// Listens on a port of the guest's loopback for as long as this connection lives. Answered by
    /// [`ForwardReply::Listening`], then a [`ForwardReply::Accepted`] for each who connects.
    Listen {
        /// TCP port; 0 for any.
        port: u16,
    },
    /// The same on a Unix socket that programs in the guest take for an ssh agent.
    ListenSshAgent,
    /// Takes one who connected. Answered by [`ForwardReply::Connected`], as above.
    Claim {
        /// Which.
        token: u64,
    },
}

/// About forwarding, from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "forward", rename_all = "snake_case")]
pub enum ForwardReply {
    /// The streams begin.
    Connected,
    /// The guest listens.
    Listening {
        /// On what: a port's number, or a path.
        at: String,
    },
    /// Somebody in the guest has connected.
    Accepted {
        /// For [`ForwardRequest::Claim`], within some seconds.
        token: u64,
    },
}
