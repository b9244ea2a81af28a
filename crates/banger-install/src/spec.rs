//! What shall be installed, for whom, how.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Owner;
use crate::owner::is_plain;

/// The guests' network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The bridge's name.
    pub bridge: String,
    /// The host's address on it.
    pub bridge_ip: Ipv4Addr,
    /// Bits of the subnet's prefix.
    pub prefix_len: u8,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            bridge: "banger0".to_owned(),
            bridge_ip: Ipv4Addr::new(172, 16, 0, 1),
            prefix_len: 24,
        }
    }
}

impl Network {
    /// Changes what is given; a subnet without an address gets its first one.
    ///
    /// # Errors
    /// No subnet, or one that does not hold the address.
    pub fn with(
        self,
        bridge: Option<String>,
        bridge_ip: Option<Ipv4Addr>,
        cidr: Option<&str>,
    ) -> Result<Self, SpecError> {
        let bridge = bridge.unwrap_or(self.bridge);
        let (bridge_ip, prefix_len) = match cidr {
            None => (bridge_ip.unwrap_or(self.bridge_ip), self.prefix_len),
            Some(cidr) => {
                let no_subnet = || SpecError::Cidr(cidr.to_owned());
                let (net, bits) = cidr.split_once('/').ok_or_else(no_subnet)?;
                let net: Ipv4Addr = net.parse().map_err(|_| no_subnet())?;
                let bits: u8 = bits.parse().map_err(|_| no_subnet())?;
                if !(16..=30).contains(&bits) {
                    return Err(no_subnet());
                }
                let mask = u32::MAX << (32 - bits);
                let base = u32::from(net) & mask;
                let ip = bridge_ip.unwrap_or_else(|| (base + 1).into());
                if u32::from(ip) & mask != base {
                    return Err(SpecError::Outside {
                        ip,
                        cidr: cidr.to_owned(),
                    });
                }
                (ip, bits)
            }
        };
        Ok(Self {
            bridge,
            bridge_ip,
            prefix_len,
        })
    }
}

/// Everything that an installation is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallSpec {
    /// Whom it serves.
    pub owner: Owner,
    /// Programs go to `bin` and `lib/banger` below it.
    pub prefix: PathBuf,
    /// The guests' network.
    pub network: Network,
    /// Whether `/dev/kvm` has a group that the daemon must be in to see whether KVM works.
    pub kvm_group: Option<String>,
    /// Whether a Firecracker binary comes along.
    pub firecracker: bool,
    /// The version that is installed.
    pub version: String,
}

/// What is wrong with it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A relative prefix, or one that a unit file could misread.
    #[error("the prefix `{}` is not an absolute path of plain characters without `..`", .0.display())]
    Prefix(PathBuf),
    /// Not a bridge's name.
    #[error(
        "the bridge name `{0}` is not one of at most 12 lower-case letters, digits and hyphens, \
         beginning with a letter"
    )]
    Bridge(String),
    /// Not a private address.
    #[error("{0} is not the address of a host in a private subnet")]
    Address(Ipv4Addr),
    /// Not a subnet.
    #[error("`{0}` is no subnet with a prefix of 16 to 30 bits, like 172.16.0.0/24")]
    Cidr(String),
    /// An address elsewhere.
    #[error("{ip} is not in {cidr}")]
    Outside {
        /// The bridge's address.
        ip: Ipv4Addr,
        /// The subnet.
        cidr: String,
    },
}

impl InstallSpec {
    /// Checks every value that a person gave. The helper checks the network once more when it starts.
    ///
    /// # Errors
    /// The first that is refused.
    pub fn check(&self) -> Result<(), SpecError> {
        check_prefix(&self.prefix)?;
        let Network {
            bridge,
            bridge_ip,
            prefix_len,
        } = &self.network;
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let begins = bridge
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_lowercase());
        if !begins || bridge.len() > 12 || !bridge.bytes().all(fits) {
            return Err(SpecError::Bridge(bridge.clone()));
        }
        if !(16..=30).contains(prefix_len) {
            return Err(SpecError::Cidr(format!("{bridge_ip}/{prefix_len}")));
        }
        let mask = u32::MAX << (32 - prefix_len);
        let host = u32::from(*bridge_ip) & !mask;
        if !bridge_ip.is_private() || host == 0 || host == !mask {
            return Err(SpecError::Address(*bridge_ip));
        }
        Ok(())
    }
}

fn check_prefix(prefix: &Path) -> Result<(), SpecError> {
    use std::path::Component;
    let straight = prefix
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if prefix.is_absolute() && straight && is_plain(prefix) {
        return Ok(());
    }
    Err(SpecError::Prefix(prefix.to_owned()))
}

#[cfg(test)]
pub(crate) fn example() -> InstallSpec {
    InstallSpec {
        owner: Owner {
            name: "alice".to_owned(),
            uid: 1000,
            gid: 1000,
            home: "/home/alice".into(),
        },
        prefix: "/usr".into(),
        network: Network::default(),
        kvm_group: Some("kvm".to_owned()),
        firecracker: true,
        version: "0.1.0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_brings_its_first_address_and_what_is_not_given_stays() {
        let network = Network::default();
        let moved = network.clone().with(None, None, Some("10.9.0.0/20"));
        let moved = moved.unwrap();
        assert_eq!(moved.bridge_ip, Ipv4Addr::new(10, 9, 0, 1));
        assert_eq!((moved.bridge.as_str(), moved.prefix_len), ("banger0", 20));
        assert_eq!(network.clone().with(None, None, None).unwrap(), network);
        let outside =
            network
                .clone()
                .with(None, Some(Ipv4Addr::new(10, 8, 0, 1)), Some("10.9.0.0/20"));
        assert!(matches!(outside, Err(SpecError::Outside { .. })));
        for bad in ["here", "10.0.0.0", "10.0.0.0/8", "10.0.0.0/31", "x/24"] {
            let result = network.clone().with(None, None, Some(bad));
            assert_eq!(result, Err(SpecError::Cidr(bad.to_owned())));
        }
    }

    #[test]
    fn bad_values_are_refused() {
        assert_eq!(example().check(), Ok(()));
        type Change = fn(&mut InstallSpec);
        let bad: [Change; 8] = [
            |s| s.prefix = "usr".into(),
            |s| s.prefix = "/usr/../home/x".into(),
            |s| s.prefix = "/o pt".into(),
            |s| s.network.bridge = "br0; drop".into(),
            |s| s.network.bridge = String::new(),
            |s| s.network.bridge_ip = Ipv4Addr::new(8, 8, 8, 8),
            |s| s.network.bridge_ip = Ipv4Addr::new(172, 16, 0, 255),
            |s| s.network.prefix_len = 31,
        ];
        for change in bad {
            let mut spec = example();
            change(&mut spec);
            assert!(spec.check().is_err(), "{spec:?}");
        }
    }
}
