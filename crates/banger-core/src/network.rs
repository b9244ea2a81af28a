//! The guests' network: from what the configuration says to one plan that daemon, helper and CLI
//! agree on.

use std::net::Ipv4Addr;

/// The bridge, when it is not said.
const BRIDGE: &str = "banger0";
/// The guests' subnet, when it is not said.
const CIDR: &str = "172.16.0.0/24";

/// The keys of the configuration, as they stand there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkSettings {
    /// `bridge_name`.
    pub bridge_name: Option<String>,
    /// `bridge_ip`.
    pub bridge_ip: Option<Ipv4Addr>,
    /// `cidr`.
    pub cidr: Option<String>,
}

/// What they come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPlan {
    /// The bridge's name.
    pub bridge: String,
    /// The host's address on it.
    pub bridge_ip: Ipv4Addr,
    /// Bits of the subnet's prefix.
    pub prefix: u8,
}

/// What is wrong with them, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkPlanError {
    /// Not a name that leaves room for the names derived from it.
    #[error(
        "bridge_name: `{0}` must be 1 to 12 lower-case letters, digits and hyphens, begin with a \
         letter and not with `bgr`; for example \"{BRIDGE}\""
    )]
    Bridge(String),
    /// Not a subnet.
    #[error("cidr: `{0}` is no IPv4 subnet; write one like \"{CIDR}\"")]
    Cidr(String),
    /// Too large or too small.
    #[error("cidr: the prefix of `{0}` must have 16 to 30 bits: 4 to 65,536 addresses")]
    Prefix(String),
    /// Not a private range.
    #[error("cidr: `{0}` is not within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")]
    Public(String),
    /// Bits set that belong to hosts.
    #[error(
        "cidr: `{cidr}` names a host; the subnet is \"{net}/{prefix}\" (and `bridge_ip` the host)"
    )]
    HostBits {
        /// What was written.
        cidr: String,
        /// Its subnet.
        net: Ipv4Addr,
        /// And prefix.
        prefix: u8,
    },
    /// The two contradict each other.
    #[error(
        "bridge_ip: {ip} is not the address of a host in {net}/{prefix}; choose one from there, or \
         set `cidr` to the subnet that it is in"
    )]
    Outside {
        /// The host's address.
        ip: Ipv4Addr,
        /// The subnet.
        net: Ipv4Addr,
        /// And prefix.
        prefix: u8,
    },
}

impl NetworkSettings {
    /// Checks every value, against each other too.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn plan(&self) -> Result<NetworkPlan, NetworkPlanError> {
        let bridge = self.bridge_name.as_deref().unwrap_or(BRIDGE);
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let begins = bridge
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_lowercase());
        let like_tap = bridge.starts_with(crate::TapName::PREFIX);
        if !begins || like_tap || bridge.len() > 12 || !bridge.bytes().all(fits) {
            return Err(NetworkPlanError::Bridge(bridge.to_owned()));
        }
        let cidr = self.cidr.as_deref().unwrap_or(CIDR);
        let parsed = cidr.split_once('/').and_then(|(net, bits)| {
            let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
            Some((net.parse().ok()?, bits.parse().ok().filter(|_| plain)?))
        });
        let Some((net, prefix)): Option<(Ipv4Addr, u8)> = parsed else {
            return Err(NetworkPlanError::Cidr(cidr.to_owned()));
        };
        if !(16..=30).contains(&prefix) {
            return Err(NetworkPlanError::Prefix(cidr.to_owned()));
        }
        if !net.is_private() {
            return Err(NetworkPlanError::Public(cidr.to_owned()));
        }
        let base = u32::from(net) & mask(prefix);
        if base != u32::from(net) {
            let (cidr, net) = (cidr.to_owned(), base.into());
            return Err(NetworkPlanError::HostBits { cidr, net, prefix });
        }
        let plan = NetworkPlan {
            bridge: bridge.to_owned(),
            bridge_ip: self.bridge_ip.unwrap_or_else(|| (base + 1).into()),
            prefix,
        };
        let ip = plan.bridge_ip;
        let (first, last) = plan.hosts();
        if plan.network() != net || ip < first || ip > last {
            return Err(NetworkPlanError::Outside { ip, net, prefix });
        }
        Ok(plan)
    }
}

impl NetworkPlan {
    /// The subnet's first address.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        (u32::from(self.bridge_ip) & mask(self.prefix)).into()
    }

    /// The first and last address that a host can have; the bridge has one of them.
    #[must_use]
    pub fn hosts(&self) -> (Ipv4Addr, Ipv4Addr) {
        let base = u32::from(self.network());
        let last = (base | !mask(self.prefix)) - 1;
        ((base + 1).into(), last.into())
    }
}

const fn mask(prefix: u8) -> u32 {
    u32::MAX << (32 - prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(name: &str, ip: &str, cidr: &str) -> Result<NetworkPlan, NetworkPlanError> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let settings = NetworkSettings {
            bridge_name: given(name),
            bridge_ip: given(ip).map(|ip| ip.parse().unwrap()),
            cidr: given(cidr),
        };
        settings.plan()
    }

    #[test]
    fn nothing_said_is_the_default_and_each_key_is_taken() {
        let default = plan("", "", "").unwrap();
        assert_eq!(default.bridge, "banger0");
        assert_eq!(default.bridge_ip, Ipv4Addr::new(172, 16, 0, 1));
        let other = plan("vm-net", "10.9.15.254", "10.9.0.0/20").unwrap();
        let hosts = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 15, 254));
        assert_eq!((other.prefix, other.hosts()), (20, hosts));
        assert_eq!(other.network(), Ipv4Addr::new(10, 9, 0, 0));
    }

    #[test]
    fn what_cannot_be_says_what_to_write() {
        for (name, ip, cidr, says) in [
            ("Bridge", "", "", "lower-case"),
            ("abcdefghijklm", "", "", "12"),
            ("bgr0", "", "", "bgr"),
            ("a b", "", "", "bridge_name"),
            ("", "", "here", "172.16.0.0/24"),
            ("", "", "172.16.0.0", "172.16.0.0/24"),
            ("", "", "172.16.0.0/+24", "172.16.0.0/24"),
            ("", "", "172.16.0.0/8", "16 to 30"),
            ("", "", "8.8.8.0/24", "10.0.0.0/8"),
            ("", "", "172.16.0.5/24", "\"172.16.0.0/24\""),
            ("", "10.0.0.1", "", "cidr"),
            ("", "172.16.0.0", "", "not the address of a host"),
            ("", "172.16.0.255", "", "not the address of a host"),
        ] {
            let error = plan(name, ip, cidr).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cidr in "[0-9./+-]{0,24}", name in "\\PC{0,16}", ip in any::<u32>()) {
            let settings = NetworkSettings {
                bridge_name: Some(name),
                bridge_ip: Some(ip.into()),
                cidr: Some(cidr),
            };
            if let Ok(plan) = settings.plan() {
                let (first, last) = plan.hosts();
                prop_assert!(first <= plan.bridge_ip && plan.bridge_ip <= last);
            }
        }
    }
}
