//! The bridge: with an address, with carrier, and marked as ours.

use std::fs;

use banger_root_proto::RefusalCode;
use netlink_packet_route::link::InfoKind;

use crate::config::HelperConfig;
use crate::error::{Context, OpError};
use crate::netlink::Netlink;

/// What our bridge carries as its alias.
fn mark(config: &HelperConfig) -> String {
    format!("banger:{}", config.owner_uid)
}

/// The link that gives the bridge carrier, and the other end where it is a veth pair.
const CARRIER: &str = "banger-carrier";
const CARRIER_PEER: &str = "banger-carrie2";

/// Makes the bridge and gives its index. Idempotent.
///
/// # Errors
/// A bridge of that name that is not ours, or a subnet that another link has.
pub(crate) fn ensure_bridge(config: &HelperConfig, netlink: &mut Netlink) -> Result<u32, OpError> {
    let what = || format!("failed to make the bridge {}", config.bridge);
    let conflict = |message: String| OpError::refused(RefusalCode::Conflict, message);
    let existing = netlink.link(&config.bridge).context(what)?;
    if let Some(link) = &existing
        && (link.kind != Some(InfoKind::Bridge) || link.alias.as_deref() != Some(&mark(config)))
    {
        return Err(conflict(format!(
            "there is a link `{}` that is not banger's",
            config.bridge
        )));
    }
    let addresses = netlink.addresses().context(what)?;
    let own_index = existing.as_ref().map(|link| link.index);
    for (index, address, _) in &addresses {
        let taken = config.is_guest_address(*address) || *address == config.bridge_ip;
        if taken && Some(*index) != own_index {
            let subnet = config.subnet();
            return Err(conflict(format!(
                "the subnet {subnet} is used already: a link has {address}"
            )));
        }
    }
    if existing.is_none() {
        netlink.create_bridge(&config.bridge).context(what)?;
    }
    let link = netlink.link(&config.bridge).context(what)?;
    let index = link.map(|link| link.index).unwrap_or_default();
    netlink.set_alias(index, &mark(config)).context(what)?;
    if !addresses
        .iter()
        .any(|(at, address, _)| *at == index && *address == config.bridge_ip)
    {
        netlink
            .add_address(index, config.bridge_ip, config.prefix)
            .context(what)?;
    }
    ensure_carrier(netlink, index)
        .context(|| format!("failed to give {} carrier", config.bridge))?;
    netlink.set_up(index).context(what)?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        .context(|| "failed to switch on IPv4 forwarding".to_owned())?;
    Ok(index)
}

/// A bridge without a running port has no carrier, and systemd-resolved ignores such a link.
fn ensure_carrier(netlink: &mut Netlink, bridge: u32) -> std::io::Result<()> {
    if netlink.link(CARRIER)?.is_none() && netlink.create_dummy(CARRIER).is_err() {
        netlink.create_veth(CARRIER, CARRIER_PEER)?;
    }
    for link in netlink.links()? {
        if link.name == CARRIER {
            netlink.set_controller(link.index, bridge)?;
            netlink.set_up(link.index)?;
        } else if link.name == CARRIER_PEER {
            netlink.set_up(link.index)?;
        }
    }
    Ok(())
}

/// Removes what [`ensure_bridge`] made. Absent is Ok; a bridge that is not ours is left alone.
pub(crate) fn remove_bridge(config: &HelperConfig, netlink: &mut Netlink) -> Result<(), OpError> {
    let what = || format!("failed to remove the bridge {}", config.bridge);
    let links = netlink.links().context(what)?;
    let ours = mark(config);
    for link in links {
        let is_bridge = link.name == config.bridge && link.alias.as_deref() == Some(&ours);
        if is_bridge || link.name == CARRIER {
            netlink.delete_link(link.index).context(what)?;
        }
    }
    Ok(())
}
