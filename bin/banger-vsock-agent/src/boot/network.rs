//! The guest's network by rtnetlink(7): loopback, the interface, its address, its route. No program
//! of the image's is needed for it.

use std::io;
use std::net::IpAddr;

use banger_core::MacAddr;
use banger_guest_proto::GuestConfig;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Sets all of it up. Idempotent.
pub(super) fn set_up(config: &GuestConfig) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut route = Route {
        socket,
        sequence: 0,
    };
    route.up(index_of("lo")?, None)?;
    let (name, mac) = interface(config.mac)?;
    let index = index_of(&name)?;
    route.address(index, config)?;
    announce(&name);
    route.up(index, (mac != config.mac).then_some(config.mac))?;
    route.default_route(index, config)
}

/// Has the kernel tell everybody, as the interface comes up, whose the address is now (`arp_notify`, ip-sysctl.rst): it
/// may have been another VM's a moment ago, and who has spoken with that one would go on sending to it for ten
/// seconds. A kernel that cannot do so is no worse off.
fn announce(name: &str) {
    let setting = format!("/proc/sys/net/ipv4/conf/{name}/arp_notify");
    let _ = std::fs::write(setting, "1");
}

fn index_of(name: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))?;
    let index = text.trim().parse();
    index.map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The interface with our MAC; else the first that is a device (an image's kernel may have made
/// tunnels and dummies).
fn interface(mac: MacAddr) -> io::Result<(String, MacAddr)> {
    let mut found = vec![];
    for entry in std::fs::read_dir("/sys/class/net")?.flatten() {
        let path = entry.path();
        let address = std::fs::read_to_string(path.join("address")).unwrap_or_default();
        let (Ok(name), Ok(address)) = (entry.file_name().into_string(), address.trim().parse())
        else {
            continue;
        };
        if path.join("device").exists() {
            found.push((name, address));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    let ours = found.iter().position(|(_, address)| *address == mac);
    if found.is_empty() {
        let what = "the machine has no network interface";
        return Err(io::Error::new(io::ErrorKind::NotFound, what));
    }
    Ok(found.swap_remove(ours.unwrap_or(0)))
}

struct Route {
    socket: Socket,
    sequence: u32,
}

impl Route {
    fn up(&mut self, index: u32, mac: Option<MacAddr>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if let Some(mac) = mac {
            // The kernel changes an address only while the interface is down, as it is now.
            let address = LinkAttribute::Address(mac.0.to_vec());
            message.attributes.push(address);
        }
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    fn address(&mut self, index: u32, config: &GuestConfig) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = config.prefix;
        message.header.index = index;
        let address = IpAddr::V4(config.address);
        let bits = u32::MAX.checked_shr(u32::from(config.prefix)).unwrap_or(0);
        let broadcast = (u32::from(config.address) | bits).into();
        message.attributes = vec![
            AddressAttribute::Local(address),
            AddressAttribute::Address(address),
            AddressAttribute::Broadcast(broadcast),
        ];
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewAddress(message), flags)
    }

    fn default_route(&mut self, index: u32, config: &GuestConfig) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Gateway(RouteAddress::Inet(config.gateway)),
            RouteAttribute::Oif(index),
        ];
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewRoute(message), flags)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        let (reply, _) = self.socket.recv_from_full()?;
        let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
            .map_err(|_| io::ErrorKind::InvalidData)?;
        match reply.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            _ => Ok(()),
        }
    }
}
