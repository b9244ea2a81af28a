//! Looking after the network while the daemon runs.

use banger_root_proto::{NetworkRepair, Refusal, RefusalCode, Reply};

use crate::helper::Helper;
use crate::network::find;
use crate::refuse::refuse;

impl Helper {
    /// Puts right what others have changed. Where there is no network, nothing is done.
    pub(crate) fn tend(&mut self, names: Option<u16>, pool: u8) -> Result<Reply, Refusal> {
        if !self.ledger.network {
            return Ok(Reply::Tended {
                repairs: vec![],
                names: None,
            });
        }
        let mut repairs = self.ensure_network()?;
        self.remember_firewall()?;
        let mut netlink = self.netlink()?;
        self.fill_pool(&mut netlink, pool)?;
        let names = match names {
            None => None,
            Some(port) => {
                let bridge = find(&mut netlink, &self.config.bridge)?
                    .ok_or_else(|| refuse(RefusalCode::System, "the bridge vanished"))?;
                let (routing, told) = self.route_names(bridge.index, port)?;
                if told {
                    repairs.push(NetworkRepair::Names);
                }
                Some(routing)
            }
        };
        Ok(Reply::Tended { repairs, names })
    }

    /// Puts the firewall right after somebody has changed something; what had been lost.
    ///
    /// # Errors
    /// It cannot be put right.
    pub fn guard_firewall(&mut self) -> Result<Vec<NetworkRepair>, Refusal> {
        if !self.ledger.network {
            return Ok(vec![]);
        }
        let repairs = self.apply_firewall(None)?;
        self.remember_firewall()?;
        Ok(repairs)
    }
}
