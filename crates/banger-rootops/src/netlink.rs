//! rtnetlink(7), as much of it as the bridge needs.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The socket failed.
    #[error("the netlink socket failed")]
    Socket(#[source] std::io::Error),
    /// The kernel said no.
    #[error("the kernel refused")]
    Kernel(#[source] Errno),
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// What we mark ours with.
    pub(crate) alias: Option<String>,
    /// The bridge it is a port of.
    pub(crate) master: Option<u32>,
    pub(crate) up: bool,
    pub(crate) carrier: bool,
}

/// What marks our routes (`ip route` shows it as `proto 98`; `rtnetlink(7)`, `rtm_protocol`: values
/// above 4 are for whoever wants them).
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(98);
/// Every other route to the same place comes first.
const LAST_METRIC: u32 = 1_000_000;

/// A route of the main table to some hosts (not one that refuses them).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Addr,
    pub(crate) prefix: u8,
    /// The interface it leads to.
    pub(crate) link: Option<u32>,
}

/// What kind of interface to make.
pub(crate) enum NewLink<'a> {
    /// A bridge that forwards at once and floods multicast.
    Bridge { mac: [u8; 6] },
    /// An interface that swallows everything.
    Dummy,
    /// Two interfaces, back to back.
    Veth { peer: &'a str },
}

/// A socket to the kernel.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Socket)?;
        socket.bind_auto().map_err(NetlinkError::Socket)?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(NetlinkError::Socket)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Every interface.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.request(all, NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(link_of).collect())
    }

    /// The interface of that name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        match self.request(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Err(NetlinkError::Kernel(Errno::NODEV)) => Ok(None),
            Err(error) => Err(error),
            Ok(answers) => Ok(answers.into_iter().find_map(link_of)),
        }
    }

    /// IPv4 addresses, each with its interface's index and prefix.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Addr, u8)>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let answers = self.request(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)?;
        let address = |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else {
                return None;
            };
            let local = message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
                    _ => None,
                })?;
            Some((message.header.index, local, message.header.prefix_len))
        };
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// Makes an interface; it must not exist.
    pub(crate) fn create(&mut self, name: &str, kind: &NewLink<'_>) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let info = match kind {
            NewLink::Bridge { mac } => {
                message
                    .attributes
                    .push(LinkAttribute::Address(mac.to_vec()));
                let options = vec![
                    InfoBridge::ForwardDelay(0),
                    InfoBridge::MulticastSnooping(false),
                ];
                vec![
                    LinkInfo::Kind(InfoKind::Bridge),
                    LinkInfo::Data(InfoData::Bridge(options)),
                ]
            }
            NewLink::Dummy => vec![LinkInfo::Kind(InfoKind::Dummy)],
            NewLink::Veth { peer } => {
                let mut other = LinkMessage::default();
                other
                    .attributes
                    .push(LinkAttribute::IfName((*peer).to_owned()));
                let data = InfoData::Veth(InfoVeth::Peer(other));
                vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)]
            }
        };
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Marks an interface, puts it under a bridge, and switches it on, in one go.
    pub(crate) fn set_up(
        &mut self,
        index: u32,
        alias: &str,
        master: Option<u32>,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message
            .attributes
            .push(LinkAttribute::IfAlias(alias.to_owned()));
        message
            .attributes
            .extend(master.map(LinkAttribute::Controller));
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives an interface an address. One that it has is fine.
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        ip: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.index = index;
        message.header.prefix_len = prefix;
        message
            .attributes
            .push(AddressAttribute::Local(IpAddr::V4(ip)));
        message
            .attributes
            .push(AddressAttribute::Address(IpAddr::V4(ip)));
        let message = RouteNetlinkMessage::NewAddress(message);
        self.change(message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Marks an interface and leaves it switched off.
    pub(crate) fn mark(&mut self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let alias = LinkAttribute::IfAlias(alias.to_owned());
        message.attributes.push(alias);
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives an interface that is switched off another name.
    pub(crate) fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// The routes of the main table that lead somewhere, without the default one.
    pub(crate) fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers = self.request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(route_of).collect())
    }

    /// What is sent to the subnet is refused here when no other route leads there, and does not
    /// follow the default route. A route of that kind that is there already is fine.
    pub(crate) fn refuse_subnet(&mut self, net: Ipv4Addr, bits: u8) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(unreachable(net, bits));
        match self.change(message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(NetlinkError::Kernel(Errno::EXIST)) => Ok(()),
            other => other,
        }
    }

    /// Takes [`Self::refuse_subnet`] back.
    pub(crate) fn stop_refusing(&mut self, net: Ipv4Addr, bits: u8) -> Result<(), NetlinkError> {
        match self.change(RouteNetlinkMessage::DelRoute(unreachable(net, bits)), 0) {
            Err(NetlinkError::Kernel(Errno::SRCH)) => Ok(()),
            other => other,
        }
    }

    /// Removes an interface. One that is gone is fine.
    pub(crate) fn remove(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.change(RouteNetlinkMessage::DelLink(message), 0) {
            Err(NetlinkError::Kernel(Errno::NODEV)) => Ok(()),
            other => other,
        }
    }

    fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.request(message, flags | NLM_F_ACK).map(|_| ())
    }

    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.sequence_number = self.sequence;
        header.flags = NLM_F_REQUEST | flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(NetlinkError::Socket)?;
        let mut answers = vec![];
        loop {
            let (received, _) = self.socket.recv_from_full().map_err(NetlinkError::Socket)?;
            let mut rest = &received[..];
            while let Some(length) = rest.get(..4) {
                let length = u32::from_ne_bytes([length[0], length[1], length[2], length[3]]);
                let length = length as usize;
                let Some(one) = rest.get(..length).filter(|_| length >= 16) else {
                    break;
                };
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                // An interface of a kind that the crate cannot read is not one of ours.
                let Ok(answer) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) else {
                    continue;
                };
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.raw_code() {
                            0 => Ok(answers),
                            code => Err(NetlinkError::Kernel(Errno::from_raw_os_error(-code))),
                        };
                    }
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
        }
    }
}

fn unreachable(net: Ipv4Addr, bits: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: bits,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: ROUTE_PROTOCOL,
        scope: RouteScope::Universe,
        kind: RouteType::Unreachable,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(net)),
        RouteAttribute::Priority(LAST_METRIC),
    ];
    message
}

fn route_of(answer: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let (header, mut destination, mut link) = (message.header, None, None);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(net)) => destination = Some(net),
            RouteAttribute::Oif(index) => link = Some(index),
            _ => {}
        }
    }
    let leads = header.kind == RouteType::Unicast && header.table == RouteHeader::RT_TABLE_MAIN;
    Some(Route {
        destination: destination.filter(|_| leads)?,
        prefix: header.destination_prefix_length,
        link,
    })
}

fn link_of(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: None,
        master: None,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(master) => link.master = Some(master),
            _ => {}
        }
    }
    Some(link)
}
