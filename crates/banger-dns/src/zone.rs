//! What the zone says: names, addresses, and who it is responsible for. No sockets, no wire format.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};

use banger_core::VmName;

/// The names of all VMs. A handle: clones share one zone.
#[derive(Debug, Clone)]
pub struct Zone {
    network: Ipv4Addr,
    prefix: u8,
    server: Option<Ipv4Addr>,
    current: Arc<RwLock<Arc<Snapshot>>>,
}

/// A VM, as far as names go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its name, without `.vm`.
    pub name: VmName,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it may ask for names of the world.
    pub nat: bool,
}

/// All records of one moment.
#[derive(Debug, Default)]
struct Snapshot {
    serial: u32,
    by_name: HashMap<String, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, VmName>,
    with_nat: HashSet<Ipv4Addr>,
}

/// The label of the zone's own server.
const SERVER: &str = "ns";

/// What is asked for, as labels in lower case, the most specific first: `["demo", "vm"]`.
pub(crate) type Labels<'a> = &'a [String];

/// What the zone knows about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Knowledge {
    /// Not ours: refuse.
    Foreign,
    /// The apex of a zone of ours, `depth` labels long.
    Apex { depth: usize },
    /// A VM.
    Host { address: Ipv4Addr, depth: usize },
    /// An address of a VM.
    Pointer { name: VmName, depth: usize },
    /// Ours, and nothing has that name.
    Nothing { depth: usize },
}

impl Zone {
    /// An empty zone whose reverse side covers `network`/`prefix`; more than 32 bits count as 32.
    #[must_use]
    pub fn new(network: Ipv4Addr, prefix: u8) -> Self {
        Self {
            network,
            prefix: prefix.min(32),
            server: None,
            current: Arc::default(),
        }
    }

    /// The same, with an address for `ns.vm`, the name that the zone gives to its own server. A VM
    /// of that name comes first.
    #[must_use]
    pub fn served_at(mut self, address: Ipv4Addr) -> Self {
        self.server = Some(address);
        self
    }

    /// Replaces all records at once.
    pub fn publish(&self, guests: Vec<Guest>) {
        let mut next = Snapshot::default();
        for Guest { name, address, nat } in guests {
            next.by_name.insert(name.as_str().to_owned(), address);
            next.by_address.insert(address, name);
            if nat {
                next.with_nat.insert(address);
            }
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        next.serial = current.serial.wrapping_add(1);
        *current = Arc::new(next);
    }

    /// The serial number of what is published: it grows with every [`Self::publish`].
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.snapshot().serial
    }

    /// Whether whoever has this address may ask for names of the world.
    pub(crate) fn has_nat(&self, address: Ipv4Addr) -> bool {
        self.snapshot().with_nat.contains(&address)
    }

    /// What `ns.vm` is.
    #[must_use]
    pub fn server_address(&self) -> Option<Ipv4Addr> {
        let vm = self.snapshot().by_name.get(SERVER).copied();
        vm.or(self.server)
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// What the zone knows about a name.
    pub(crate) fn look_up(&self, labels: Labels<'_>) -> Knowledge {
        match labels {
            [.., vm] if vm == "vm" => self.forward(&labels[..labels.len() - 1]),
            [octets @ .., v4, arpa] if v4 == "in-addr" && arpa == "arpa" => self.reverse(octets),
            _ => Knowledge::Foreign,
        }
    }

    fn forward(&self, below: Labels<'_>) -> Knowledge {
        let depth = 1;
        match below {
            [] => Knowledge::Apex { depth },
            [name] => match self.snapshot().by_name.get(name) {
                Some(&address) => Knowledge::Host { address, depth },
                None => match self.server.filter(|_| name == SERVER) {
                    Some(address) => Knowledge::Host { address, depth },
                    None => Knowledge::Nothing { depth },
                },
            },
            _ => Knowledge::Nothing { depth },
        }
    }

    /// Reverse zones end at octets (RFC 1035 section 3.5), so a subnet of 20 bits is sixteen zones
    /// of 24, each its own apex; nothing of the neighbours' is claimed.
    fn reverse(&self, octets: Labels<'_>) -> Knowledge {
        let apex_octets = usize::from(self.prefix.div_ceil(8));
        let depth = apex_octets + 2;
        if octets.len() < apex_octets {
            return Knowledge::Foreign;
        }
        let mut address = [0_u8; 4];
        for (place, label) in address.iter_mut().zip(octets.iter().rev()) {
            match parse_octet(label) {
                Some(octet) => *place = octet,
                None => return self.foreign_or_nothing(octets, apex_octets, depth),
            }
        }
        if !self.covers(Ipv4Addr::from(address)) {
            return Knowledge::Foreign;
        }
        match octets.len() {
            4 => match self.snapshot().by_address.get(&Ipv4Addr::from(address)) {
                Some(name) => Knowledge::Pointer {
                    name: name.clone(),
                    depth,
                },
                None if apex_octets == 4 => Knowledge::Apex { depth },
                None => Knowledge::Nothing { depth },
            },
            count if count == apex_octets => Knowledge::Apex { depth },
            _ => Knowledge::Nothing { depth },
        }
    }

    /// A label that is no octet: below an apex of ours it is a name that does not exist, elsewhere
    /// it is not ours at all.
    fn foreign_or_nothing(&self, octets: Labels<'_>, apex: usize, depth: usize) -> Knowledge {
        let mut address = [0_u8; 4];
        for (place, label) in address.iter_mut().zip(octets.iter().rev().take(apex)) {
            match parse_octet(label) {
                Some(octet) => *place = octet,
                None => return Knowledge::Foreign,
            }
        }
        if self.covers(Ipv4Addr::from(address)) {
            Knowledge::Nothing { depth }
        } else {
            Knowledge::Foreign
        }
    }

    fn covers(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX
            .checked_shl(32 - u32::from(self.prefix))
            .unwrap_or(0);
        u32::from(address) & mask == u32::from(self.network) & mask
    }
}

fn parse_octet(label: &str) -> Option<u8> {
    let plain = label == "0" || !label.starts_with('0');
    (plain && label.bytes().all(|b| b.is_ascii_digit()))
        .then(|| label.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(prefix: u8) -> Zone {
        let zone = Zone::new(Ipv4Addr::new(172, 16, 0, 0), prefix);
        zone.publish(vec![Guest {
            name: "demo".parse().unwrap(),
            address: Ipv4Addr::new(172, 16, 0, 2),
            nat: false,
        }]);
        zone
    }

    fn ask(zone: &Zone, name: &str) -> Knowledge {
        let labels: Vec<String> = name.split('.').map(str::to_owned).collect();
        zone.look_up(&labels)
    }

    #[test]
    fn names_below_vm_are_ours_and_no_others() {
        let zone = zone(24);
        let depth = 1;
        assert_eq!(ask(&zone, "vm"), Knowledge::Apex { depth });
        let address = Ipv4Addr::new(172, 16, 0, 2);
        assert_eq!(ask(&zone, "demo.vm"), Knowledge::Host { address, depth });
        for nothing in ["other.vm", "a.demo.vm", "vm.vm"] {
            assert_eq!(ask(&zone, nothing), Knowledge::Nothing { depth });
        }
        for foreign in ["", "com", "demo", "vm.com", "xvm", "arpa", "in-addr.arpa"] {
            assert_eq!(ask(&zone, foreign), Knowledge::Foreign, "{foreign}");
        }
    }

    #[test]
    fn the_reverse_zone_covers_the_subnet_and_no_neighbour() {
        let wide = zone(20);
        let depth = 5;
        assert!(matches!(
            ask(&wide, "2.0.16.172.in-addr.arpa"),
            Knowledge::Pointer { name, depth: 5 } if name.as_str() == "demo"
        ));
        assert_eq!(
            ask(&wide, "2.15.16.172.in-addr.arpa"),
            Knowledge::Nothing { depth }
        );
        assert_eq!(
            ask(&wide, "15.16.172.in-addr.arpa"),
            Knowledge::Apex { depth }
        );
        for nothing in [
            "x.0.16.172.in-addr.arpa",
            "02.0.16.172.in-addr.arpa",
            "1.2.0.16.172.in-addr.arpa",
        ] {
            assert_eq!(
                ask(&wide, nothing),
                Knowledge::Nothing { depth },
                "{nothing}"
            );
        }
        for foreign in [
            "16.172.in-addr.arpa",
            "2.16.16.172.in-addr.arpa",
            "16.16.172.in-addr.arpa",
            "x.16.172.in-addr.arpa",
            "8.8.8.8.in-addr.arpa",
            "x.8.8.8.in-addr.arpa",
        ] {
            assert_eq!(ask(&wide, foreign), Knowledge::Foreign, "{foreign}");
        }
    }

    #[test]
    fn any_prefix_length_is_served_without_panic() {
        for prefix in 0..=40 {
            let zone = zone(prefix);
            assert!(matches!(
                ask(&zone, "2.0.16.172.in-addr.arpa"),
                Knowledge::Pointer { .. } | Knowledge::Foreign
            ));
        }
    }

    #[test]
    fn publishing_replaces_everything_and_raises_the_serial() {
        let zone = zone(24);
        let before = zone.serial();
        zone.publish(vec![]);
        assert_eq!(zone.serial(), before + 1);
        assert_eq!(ask(&zone, "demo.vm"), Knowledge::Nothing { depth: 1 });
    }

    #[test]
    fn the_server_has_an_address_and_a_vm_of_that_name_comes_first() {
        let (depth, address) = (1, Ipv4Addr::new(172, 16, 0, 1));
        assert_eq!(ask(&zone(24), "ns.vm"), Knowledge::Nothing { depth });
        let zone = zone(24).served_at(address);
        assert_eq!(ask(&zone, "ns.vm"), Knowledge::Host { address, depth });
        assert_eq!(zone.server_address(), Some(address));
        let vm = Ipv4Addr::new(172, 16, 0, 7);
        zone.publish(vec![Guest {
            name: "ns".parse().unwrap(),
            address: vm,
            nat: true,
        }]);
        let found = ask(&zone, "ns.vm");
        assert_eq!(found, Knowledge::Host { address: vm, depth });
        assert_eq!(zone.server_address(), Some(vm));
        assert!(zone.has_nat(vm) && !zone.has_nat(address));
    }
}
