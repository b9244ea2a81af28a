//! What root decided on an installed host. The owner's configuration may only agree with it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::config::Config;

/// The part of root's configuration that concerns the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RootConfig {
    pub(crate) bridge: String,
    pub(crate) bridge_ip: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) firecracker: Option<PathBuf>,
}

impl RootConfig {
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
    }

    /// Puts root's decisions in place of the owner's, and gives the names of those that differed.
    pub(crate) fn overrule(&self, config: &mut Config) -> Vec<&'static str> {
        let mut overruled = vec![];
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix));
        let net = Ipv4Addr::from(u32::from(self.bridge_ip) & mask.unwrap_or(0));
        settle(
            &mut config.bridge_name,
            Some(self.bridge.clone()),
            "bridge_name",
            &mut overruled,
        );
        settle(
            &mut config.bridge_ip,
            Some(self.bridge_ip),
            "bridge_ip",
            &mut overruled,
        );
        settle(
            &mut config.cidr,
            Some(format!("{net}/{}", self.prefix)),
            "cidr",
            &mut overruled,
        );
        settle(
            &mut config.firecracker_bin,
            self.firecracker.clone(),
            "firecracker_bin",
            &mut overruled,
        );
        overruled
    }
}

fn settle<T: PartialEq>(
    ours: &mut Option<T>,
    roots: Option<T>,
    key: &'static str,
    overruled: &mut Vec<&'static str>,
) {
    if ours.is_some() && *ours != roots {
        overruled.push(key);
    }
    *ours = roots;
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# a comment\nowner = 1000\nbridge = \"banger0\"\nbridge-ip = \"10.9.0.1\"\nprefix = 20\n\
        firecracker = \"/usr/lib/banger/firecracker\"\nmax-vms = 256\n";

    fn root() -> RootConfig {
        toml::from_str(TEXT).unwrap()
    }

    #[test]
    fn an_owner_who_says_nothing_gets_what_root_decided() {
        let mut config = Config::default();
        assert!(root().overrule(&mut config).is_empty());
        assert_eq!(config.cidr.as_deref(), Some("10.9.0.0/20"));
        assert_eq!(config.bridge_ip, Some(Ipv4Addr::new(10, 9, 0, 1)));
        let again = config.clone();
        assert!(root().overrule(&mut config).is_empty(), "agreeing is fine");
        assert_eq!(config, again);
    }

    #[test]
    fn an_owner_who_disagrees_is_overruled_and_told() {
        let mut config = Config {
            bridge_name: Some("br0".into()),
            cidr: Some("172.16.0.0/24".into()),
            firecracker_bin: Some("/home/u/firecracker".into()),
            ..Config::default()
        };
        let overruled = root().overrule(&mut config);
        assert_eq!(overruled, ["bridge_name", "cidr", "firecracker_bin"]);
        assert_eq!(config.bridge_name.as_deref(), Some("banger0"));
    }
}
