//! The bridge, its carrier, its firewall.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, OwnedFd};

use banger_core::{TapName, VmId};
use banger_root_proto::{NetworkRepair, Refusal, RefusalCode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::firewall::Ruleset;
use crate::firewall_state::forward_packets;
use crate::helper::Helper;
use crate::netlink::{Link, Netlink, NetlinkError, NewLink};
use crate::nft;
use crate::refuse::{OrRefuse as _, refuse};

impl Helper {
    /// Bridge with carrier, its address, and the firewall; what of it had been lost.
    pub(crate) fn ensure_network(&mut self) -> Result<Vec<NetworkRepair>, Refusal> {
        let mut repairs = vec![];
        let mut netlink = self.netlink()?;
        let existing = self.check_free(&mut netlink)?;
        let was_there = self.ledger.network;
        if !was_there {
            self.ledger.network = true;
            self.save()?;
        }
        // The rules stand before the first packet can pass.
        repairs.extend(self.apply_firewall(None)?);
        let is_new = existing.is_none();
        let bridge = match existing {
            Some(link) => link,
            None => self.create_bridge(&mut netlink)?,
        };
        if was_there && (is_new || !bridge.up) {
            repairs.push(NetworkRepair::Bridge);
        }
        let mark = self.config.mark();
        if !bridge.up || bridge.alias.is_none() {
            netlink
                .set_up(bridge.index, &mark, None)
                .or_refuse(|| self.failed("switch on"))?;
        }
        netlink
            .add_address(bridge.index, self.config.bridge_ip, self.config.prefix)
            .or_refuse(|| self.failed("give an address to"))?;
        netlink
            .refuse_subnet(self.config.network(), self.config.prefix)
            .or_refuse(|| "failed to keep packets for guests on this machine".into())?;
        self.ensure_carrier(&mut netlink, bridge.index)?;
        if is_new && was_there {
            self.plug_in_again(&mut netlink, bridge.index)?;
        }
        Ok(repairs)
    }

    /// Nobody else has the bridge's name or the subnet; our bridge, when it is there.
    pub(crate) fn check_free(&self, netlink: &mut Netlink) -> Result<Option<Link>, Refusal> {
        let existing = find(netlink, &self.config.bridge)?;
        if let Some(link) = &existing {
            self.check_ours(link)?;
        }
        self.check_subnet(netlink, existing.as_ref())?;
        Ok(existing)
    }

    /// Taps that have lost their bridge.
    fn plug_in_again(&self, netlink: &mut Netlink, bridge: u32) -> Result<(), Refusal> {
        let mark = self.config.mark();
        for vm in self.ledger.taps.keys() {
            let name = TapName::of(vm);
            let link = find(netlink, name.as_str())?;
            if let Some(link) = link.filter(|link| link.alias.as_deref() == Some(&mark)) {
                netlink
                    .set_up(link.index, &mark, Some(bridge))
                    .or_refuse(|| format!("failed to plug in `{}` again", link.name))?;
            }
        }
        Ok(())
    }

    /// Takes down what [`Self::ensure_network`] made. Forwarding is switched off again when it was
    /// off before us, unless somebody else has come to rely on it. Taps that are gone hold nothing up.
    pub(crate) fn remove_network(&mut self) -> Result<(), Refusal> {
        self.forget_lost_taps()?;
        if !self.ledger.taps.is_empty() {
            let message = format!("{} taps are on the bridge", self.ledger.taps.len());
            return Err(refuse(RefusalCode::Busy, message));
        }
        let mut netlink = self.netlink()?;
        let links = netlink.links().or_refuse(|| self.failed("look for"))?;
        let mark = self.config.mark();
        let announced = self.ledger.network;
        let ours = |link: &&Link| match link.alias.as_deref() {
            Some(alias) => alias == mark,
            None => announced,
        };
        let named = |name: &str| links.iter().find(|link| link.name == name).filter(ours);
        if let Some(bridge) = named(&self.config.bridge) {
            let carrier = self.config.carrier_names();
            let port = |link: &&Link| link.master == Some(bridge.index);
            let foreign = |link: &&Link| !carrier.contains(&link.name);
            if let Some(link) = links.iter().filter(port).find(foreign) {
                let message = format!("`{}` is still a port of the bridge", link.name);
                return Err(refuse(RefusalCode::Busy, message));
            }
        }
        self.fill_pool(&mut netlink, 0)?;
        let [carrier, _] = self.config.carrier_names();
        for link in [named(&carrier), named(&self.config.bridge)]
            .into_iter()
            .flatten()
        {
            netlink
                .remove(link.index)
                .or_refuse(|| format!("failed to remove `{}`", link.name))?;
        }
        if self.ledger.network || self.ledger.firewall.is_some() {
            self.leave_neighbours();
            netlink
                .stop_refusing(self.config.network(), self.config.prefix)
                .or_refuse(|| "failed to remove the route of the guests' subnet".into())?;
            self.nft
                .apply(&Ruleset::render_removal(&self.config))
                .or_refuse(|| "failed to remove the firewall".into())?;
        }
        if self.ledger.forwarding && !self.others_forward() {
            forward_packets(false).or_refuse(|| "failed to stop forwarding packets".into())?;
        }
        self.ledger.forwarding = false;
        self.ledger.network = false;
        self.ledger.firewall = None;
        self.names = None;
        self.save()
    }

    /// Whether bridge and firewall stand.
    pub(crate) fn network_stands(&self, links: &[Link]) -> bool {
        let mark = self.config.mark();
        let bridge = links.iter().any(|link| {
            link.name == self.config.bridge && link.alias.as_deref() == Some(&mark) && link.up
        });
        let untouched = || {
            let applied = self.ledger.firewall.and_then(|applied| applied.generation);
            applied.is_some() && applied == nft::generation()
        };
        let table = Ruleset::table(&self.config);
        let listed = || {
            ["inet", "bridge"]
                .iter()
                .all(|family| self.nft.has_table(family, &table))
        };
        bridge && (untouched() || listed())
    }

    /// Sockets for DNS, reachable from the bridge only: UDP, then TCP.
    pub(crate) fn open_guest_dns(&self) -> Result<Vec<OwnedFd>, Refusal> {
        let mut netlink = self.netlink()?;
        if find(&mut netlink, &self.config.bridge)?.is_none() {
            return Err(refuse(RefusalCode::Unknown, "the bridge does not exist"));
        }
        let address = SocketAddrV4::new(self.config.bridge_ip, 53);
        let mut sockets = vec![];
        for kind in [SocketType::DGRAM, SocketType::STREAM] {
            let failed = || format!("failed to open port 53 of {}", self.config.bridge_ip);
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::INET, kind, flags, None).or_refuse(failed)?;
            if kind == SocketType::STREAM {
                sockopt::set_socket_reuseaddr(&socket, true).or_refuse(failed)?;
            }
            crate::sys::bind_to_device(socket.as_fd(), &self.config.bridge).or_refuse(failed)?;
            bind(&socket, &address).map_err(|errno| {
                let code = match errno {
                    Errno::ADDRINUSE => RefusalCode::Conflict,
                    _ => RefusalCode::System,
                };
                crate::refuse::because(code, failed(), &errno)
            })?;
            if kind == SocketType::STREAM {
                listen(&socket, 128).or_refuse(failed)?;
            }
            sockets.push(socket);
        }
        Ok(sockets)
    }

    pub(crate) fn netlink(&self) -> Result<Netlink, Refusal> {
        Netlink::open().or_refuse(|| "failed to reach the kernel's network side".into())
    }

    /// Whether a link is ours: by its mark, or because the ledger announced it and nobody has
    /// marked it yet.
    fn check_ours(&self, link: &Link) -> Result<(), Refusal> {
        match link.alias.as_deref() {
            Some(alias) if alias == self.config.mark() => Ok(()),
            None if self.ledger.network => Ok(()),
            _ => {
                let message = format!(
                    "there is a network interface `{}` that is not ours",
                    link.name
                );
                Err(refuse(RefusalCode::Conflict, message))
            }
        }
    }

    /// Nobody else has an address in the guests' subnet, or a route into it.
    fn check_subnet(&self, netlink: &mut Netlink, bridge: Option<&Link>) -> Result<(), Refusal> {
        let ours = bridge.map(|link| link.index);
        let addresses = netlink
            .addresses()
            .or_refuse(|| "failed to list addresses".into())?;
        let address = addresses
            .into_iter()
            .find(|(index, ip, prefix)| Some(*index) != ours && self.config.overlaps(*ip, *prefix));
        if let Some((index, ip, prefix)) = address {
            let what = format!("{ip}/{prefix}");
            return Err(self.subnet_taken(netlink, &what, Some(index)));
        }
        let routes = netlink
            .routes()
            .or_refuse(|| "failed to list routes".into())?;
        // One that leads to more than the subnet (a default route, a VPN's) loses against ours.
        let route = routes.into_iter().find(|route| {
            let inside = route.prefix >= self.config.prefix;
            let taken = self.config.overlaps(route.destination, route.prefix);
            inside && taken && (ours.is_none() || route.link != ours)
        });
        let Some(route) = route else {
            return Ok(());
        };
        let what = format!("the route to {}/{}", route.destination, route.prefix);
        Err(self.subnet_taken(netlink, &what, route.link))
    }

    fn subnet_taken(&self, netlink: &mut Netlink, what: &str, index: Option<u32>) -> Refusal {
        let links = netlink.links().unwrap_or_default();
        let name = links
            .into_iter()
            .find(|link| Some(link.index) == index)
            .map_or_else(|| "unknown".to_owned(), |link| link.name);
        let (own, own_prefix) = (self.config.bridge_ip, self.config.prefix);
        let message = format!(
            "the guests' subnet {own}/{own_prefix} overlaps with {what} of the interface `{name}`"
        );
        refuse(RefusalCode::Conflict, message)
    }

    fn create_bridge(&self, netlink: &mut Netlink) -> Result<Link, Refusal> {
        // A fixed MAC: else it would change with the bridge's ports, under the guests' feet.
        let [_, a, b, c] = self.config.bridge_ip.octets();
        let mac = [0x06, 0xba, 0x00, a, b, c];
        let name = &self.config.bridge;
        netlink
            .create(name, &NewLink::Bridge { mac })
            .or_refuse(|| self.failed("make"))?;
        // Guests speak IPv4 only; a kernel without IPv6 has no such file.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        find(netlink, name)?
            .ok_or_else(|| refuse(RefusalCode::System, format!("the bridge `{name}` vanished")))
    }

    /// A bridge without a port that is up has no carrier, and then no route.
    fn ensure_carrier(&self, netlink: &mut Netlink, bridge: u32) -> Result<(), Refusal> {
        let [name, peer] = self.config.carrier_names();
        let failed = || format!("failed to give the bridge carrier through `{name}`");
        let mark = self.config.mark();
        let port = match find(netlink, &name)? {
            Some(link) => {
                self.check_ours(&link)?;
                link
            }
            None => {
                match netlink.create(&name, &NewLink::Dummy) {
                    // No such kind of interface here.
                    Err(NetlinkError::Kernel(Errno::OPNOTSUPP | Errno::NODEV | Errno::INVAL)) => {
                        netlink
                            .create(&name, &NewLink::Veth { peer: &peer })
                            .or_refuse(failed)?;
                    }
                    other => other.or_refuse(failed)?,
                }
                find(netlink, &name)?.ok_or_else(|| refuse(RefusalCode::System, failed()))?
            }
        };
        if let Some(other) = find(netlink, &peer)?.filter(|other| !other.up) {
            self.check_ours(&other)?;
            netlink.set_up(other.index, &mark, None).or_refuse(failed)?;
        }
        if !port.up || port.master != Some(bridge) {
            netlink
                .set_up(port.index, &mark, Some(bridge))
                .or_refuse(failed)?;
        }
        Ok(())
    }

    fn failed(&self, what: &str) -> String {
        format!("failed to {what} the bridge `{}`", self.config.bridge)
    }
}

/// The link of that name, or why it cannot be known.
pub(crate) fn find(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, Refusal> {
    netlink
        .link(name)
        .or_refuse(|| format!("failed to look for the interface `{name}`"))
}

/// The links that are taps of this owner's, by VM.
pub(crate) fn taps_among(links: &[Link], mark: &str) -> Vec<VmId> {
    let ours = links
        .iter()
        .filter(|link| link.alias.as_deref() == Some(mark));
    ours.filter_map(|link| TapName::vm_of(&link.name)).collect()
}
