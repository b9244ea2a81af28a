//! What is fixed when the helper starts, by whoever had root then.

use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Everything the owner cannot change.
#[derive(Debug, Clone)]
pub struct Config {
    /// The only user who may ask.
    pub owner: u32,
    /// The helper's own directory, root-owned.
    pub runtime_dir: PathBuf,
    /// The bridge's name.
    pub bridge: String,
    /// The host's address on the bridge.
    pub bridge_ip: Ipv4Addr,
    /// Bits of the subnet's prefix.
    pub prefix: u8,
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// `banger-vhost-vsock`.
    pub vhost_vsock: PathBuf,
    /// `firecracker`, where there is one.
    pub firecracker: Option<PathBuf>,
    /// The slice in which each VM is a unit of systemd's; without it they are processes in sessions of their own.
    pub slice: Option<String>,
    /// The most VMs, and the most taps, at once.
    pub max_vms: usize,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not a name that leaves room for the names derived from it.
    #[error(
        "the bridge name `{0}` is not one of at most 12 lower-case letters, digits and hyphens, \
         beginning with a letter"
    )]
    Bridge(String),
    /// Tap names begin so.
    #[error("the bridge name `{0}` begins like a tap's")]
    BridgeLikeTap(String),
    /// Not a subnet for guests.
    #[error(
        "{ip}/{prefix} is not the address of a host in a private subnet of 4 to 65,536 addresses"
    )]
    Subnet {
        /// The host's address.
        ip: Ipv4Addr,
        /// The prefix.
        prefix: u8,
    },
    /// Not a slice's name.
    #[error("`{0}` is not a slice's name, like banger.slice")]
    Slice(String),
    /// A program is not named by an absolute path.
    #[error("`{0}` is not an absolute path")]
    Relative(PathBuf),
}

impl Config {
    /// Checks every value.
    ///
    /// # Errors
    /// The first that is refused.
    pub fn check(&self) -> Result<(), ConfigError> {
        let name = &self.bridge;
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if !begins || name.len() > 12 || !name.bytes().all(fits) {
            return Err(ConfigError::Bridge(name.clone()));
        }
        if name.starts_with(banger_core::TapName::PREFIX) {
            return Err(ConfigError::BridgeLikeTap(name.clone()));
        }
        let in_range = (16..=30).contains(&self.prefix);
        if !in_range || !self.bridge_ip.is_private() || !self.is_host(self.bridge_ip) {
            return Err(ConfigError::Subnet {
                ip: self.bridge_ip,
                prefix: self.prefix,
            });
        }
        if let Some(slice) = &self.slice {
            let name = slice.strip_suffix(".slice").unwrap_or_default();
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
                return Err(ConfigError::Slice(slice.clone()));
            }
        }
        let programs = [&self.qemu, &self.vhost_vsock].into_iter();
        for path in programs.chain(&self.firecracker).chain([&self.runtime_dir]) {
            if !path.is_absolute() {
                return Err(ConfigError::Relative(path.clone()));
            }
        }
        Ok(())
    }

    /// What marks a network interface as this owner's (`ip link` shows it as the alias).
    #[must_use]
    pub fn mark(&self) -> String {
        format!("banger:{}", self.owner)
    }

    /// The two ends of the link that gives the bridge carrier (the second only for a veth pair).
    #[must_use]
    pub fn carrier_names(&self) -> [String; 2] {
        [format!("{}-c", self.bridge), format!("{}-p", self.bridge)]
    }

    /// The name of a tap that is kept ready; the bridge's name makes it this owner's.
    #[must_use]
    pub fn pool_tap(&self, number: u8) -> String {
        let digit = char::from_digit(u32::from(number), 36).unwrap_or('z');
        format!("{}-t{digit}", self.bridge)
    }

    /// The subnet's first address.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        (u32::from(self.bridge_ip) & mask(self.prefix)).into()
    }

    /// Whether a guest may have this address.
    #[must_use]
    pub fn admits_guest(&self, address: Ipv4Addr) -> bool {
        self.overlaps(address, 32) && self.is_host(address) && address != self.bridge_ip
    }

    /// Whether a subnet has addresses in common with ours.
    #[must_use]
    pub fn overlaps(&self, address: Ipv4Addr, prefix: u8) -> bool {
        let mask = mask(prefix.min(self.prefix));
        u32::from(address) & mask == u32::from(self.bridge_ip) & mask
    }

    /// Neither the subnet's first address nor its last.
    fn is_host(&self, address: Ipv4Addr) -> bool {
        let host = u32::from(address) & !mask(self.prefix);
        host != 0 && host != !mask(self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
pub(crate) fn example() -> Config {
    Config {
        owner: 1000,
        runtime_dir: "/run/banger-root/1000-0011aabb".into(),
        bridge: "banger0".into(),
        bridge_ip: Ipv4Addr::new(172, 16, 0, 1),
        prefix: 24,
        qemu: "/usr/bin/qemu-system-x86_64".into(),
        vhost_vsock: "/usr/bin/banger-vhost-vsock".into(),
        firecracker: None,
        slice: None,
        max_vms: 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_other_hosts_in_the_subnet_are_admitted() {
        let config = example();
        assert_eq!(config.check(), Ok(()));
        let admitted = |text: &str| config.admits_guest(text.parse().unwrap());
        assert!(admitted("172.16.0.2") && admitted("172.16.0.254"));
        for bad in [
            "172.16.0.0",
            "172.16.0.1",
            "172.16.0.255",
            "172.16.1.2",
            "8.8.8.8",
        ] {
            assert!(!admitted(bad), "{bad}");
        }
    }

    #[test]
    fn overlap_is_seen_both_ways() {
        let config = example();
        let overlaps = |text: &str, prefix| config.overlaps(text.parse().unwrap(), prefix);
        assert!(
            overlaps("172.16.0.77", 32) && overlaps("172.16.0.0", 12) && overlaps("0.0.0.0", 0)
        );
        assert!(!overlaps("172.16.1.0", 24) && !overlaps("10.0.0.1", 8));
    }

    #[test]
    fn bad_values_are_refused() {
        type Change = fn(&mut Config);
        let bad: [Change; 12] = [
            |c| c.bridge = "br\" accept".into(),
            |c| c.bridge = "abcdefghijklm".into(),
            |c| c.bridge = String::new(),
            |c| c.bridge = "bgr0".into(),
            |c| c.bridge_ip = Ipv4Addr::new(8, 8, 8, 8),
            |c| c.bridge_ip = Ipv4Addr::new(172, 16, 0, 0),
            |c| c.prefix = 31,
            |c| c.prefix = 8,
            |c| c.qemu = "qemu-system-x86_64".into(),
            |c| c.firecracker = Some("firecracker".into()),
            |c| c.slice = Some("banger".into()),
            |c| c.slice = Some("a/../b.slice".into()),
        ];
        for change in bad {
            let mut config = example();
            change(&mut config);
            assert!(config.check().is_err(), "{config:?}");
        }
    }
}
