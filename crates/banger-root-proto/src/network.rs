//! What the helper tells about the network.

use serde::{Deserialize, Serialize};

/// What was found wrong with the network and put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkRepair {
    /// The bridge was gone or down. Sockets bound to it before are dead.
    Bridge,
    /// The firewall was gone or another.
    Firewall,
    /// Another firewall's hook had lost our rule, or never had it.
    Neighbour,
    /// The host's resolver did not know where `.vm` is answered.
    Names,
}

/// Who on this host asks our server for `.vm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "routing", rename_all = "snake_case")]
pub enum NamesRouting {
    /// systemd-resolved, told by us.
    Resolved {},
    /// Nobody: systemd-resolved does not run here.
    Nobody {},
    /// systemd-resolved could not be told.
    Failed {
        /// Why.
        why: String,
    },
}

/// The network as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFacts {
    /// Whether bridge and firewall stand.
    pub stands: bool,
    /// What of somebody else's has the bridge's name or an address of the guests' subnet.
    pub taken: Option<String>,
    /// Whether this machine forwards packets.
    pub forwarding: bool,
    /// Whether packets between guests pass through the machine's IP firewalls too
    /// (`bridge-nf-call-iptables`).
    pub bridged_are_filtered: bool,
    /// The products whose hook lets guests through, by us.
    pub beside: Vec<Neighbour>,
    /// Why another product's hook could not be used.
    pub beside_problem: Option<String>,
    /// Chains of others that drop what they do not know, and do not know our bridge.
    pub drops: Vec<ForeignDrop>,
    /// Taps that are kept ready.
    pub pool: u8,
}

/// A product that filters beside us and has a hook for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Neighbour {
    /// Docker: the chain `DOCKER-USER`.
    Docker,
    /// firewalld: the zone `trusted`.
    Firewalld,
}

/// A chain with the policy `drop` that nothing of ours can get round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignDrop {
    /// What it sees.
    pub hook: Hook,
    /// Address family: `ip`, `inet`, `bridge`; `legacy` for the old iptables.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Whether it is ufw's.
    pub is_ufw: bool,
}

/// Where a chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// What passes through.
    Forward,
    /// What is for this machine.
    Input,
}

impl Hook {
    /// nft's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Input => "input",
        }
    }
}
