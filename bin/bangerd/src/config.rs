//! `config.toml`: every key optional, unknown keys refused with the nearest known one.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use banger_core::{
    ByteSize, Choice, ImageName, MemoryMib, NetworkPlan, NetworkPlanError, NetworkSettings,
    RootStorage, VmmKind, nearest,
};
use serde::Deserialize;

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("failed to read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("{name}: {message}")]
    Environment { name: String, message: String },
}

/// The configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) log_level: Option<LogLevel>,
    pub(crate) web_listen_addr: Option<std::net::SocketAddr>,
    pub(crate) firecracker_bin: Option<PathBuf>,
    pub(crate) ssh_key_path: Option<PathBuf>,
    pub(crate) default_image_name: Option<ImageName>,
    pub(crate) auto_stop_stale_after: Option<String>,
    pub(crate) stats_poll_interval: Option<String>,
    pub(crate) metrics_poll_interval: Option<String>,
    pub(crate) bridge_name: Option<String>,
    pub(crate) bridge_ip: Option<Ipv4Addr>,
    pub(crate) cidr: Option<String>,
    pub(crate) tap_pool_size: Option<u8>,
    pub(crate) default_dns: Option<DnsAddress>,
    pub(crate) vmm: Choice<VmmKind>,
    pub(crate) storage: Choice<RootStorage>,
    /// VMs are paused while less is free where their disks are; 0: never.
    #[serde(deserialize_with = "size")]
    pub(crate) disk_reserve: Option<ByteSize>,
    pub(crate) vm_defaults: VmDefaults,
    pub(crate) file_sync: Vec<FileSync>,
    pub(crate) catalog: Option<toml::Table>,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl Config {
    /// Enough for guests to be shut down, and for the database.
    const DISK_RESERVE: ByteSize = ByteSize(512 << 20);

    /// What is kept free where the VMs' disks are.
    pub(crate) fn disk_reserve(&self) -> ByteSize {
        self.disk_reserve.unwrap_or(Self::DISK_RESERVE)
    }
}

impl LogLevel {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// A resolver: an address, and a port where it is not 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct DnsAddress(pub(crate) std::net::SocketAddr);

impl std::str::FromStr for DnsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.parse().map(|ip: std::net::IpAddr| (ip, 53).into());
        let address = plain.or_else(|_| text.parse());
        let what = "is no resolver's address; write one like \"9.9.9.9\" or \"127.0.0.1:5353\"";
        address.map(Self).map_err(|_| format!("`{text}` {what}"))
    }
}

impl TryFrom<String> for DnsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Config {
    /// The guests' network.
    pub(crate) fn network(&self) -> Result<NetworkPlan, NetworkPlanError> {
        let settings = NetworkSettings {
            bridge_name: self.bridge_name.clone(),
            bridge_ip: self.bridge_ip,
            cidr: self.cidr.clone(),
        };
        settings.plan()
    }
}

/// `[vm_defaults]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct VmDefaults {
    pub(crate) vcpu: Option<u16>,
    pub(crate) memory_mib: Option<MemoryMib>,
    #[serde(deserialize_with = "size")]
    pub(crate) disk_size: Option<ByteSize>,
}

/// `[[file_sync]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileSync {
    pub(crate) host: String,
    pub(crate) guest: String,
    pub(crate) mode: Option<String>,
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

const KEYS: &[&str] = &[
    "log_level",
    "web_listen_addr",
    "firecracker_bin",
    "ssh_key_path",
    "default_image_name",
    "auto_stop_stale_after",
    "stats_poll_interval",
    "metrics_poll_interval",
    "bridge_name",
    "bridge_ip",
    "cidr",
    "tap_pool_size",
    "default_dns",
    "vmm",
    "storage",
    "disk_reserve",
    "vm_defaults",
    "file_sync",
    "catalog",
    "vcpu",
    "memory_mib",
    "disk_size",
    "host",
    "guest",
    "mode",
];

/// Reads the file, when it is there, and what the environment says instead.
pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => {
            return Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            });
        }
        Ok(text) => text,
    };
    let mut config = parse(path, &text)?;
    apply_environment(&mut config, |name| std::env::var(name).ok())?;
    Ok(config)
}

fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let mut message = error.to_string().trim().to_owned();
        if let Some(unknown) = message
            .split("unknown field `")
            .nth(1)
            .and_then(|rest| rest.split('`').next())
            && let Some(known) = nearest(unknown, KEYS.iter().copied())
        {
            message.push_str(&format!("\ndid you mean `{known}`?"));
        }
        ConfigError::Parse {
            path: path.to_owned(),
            message,
        }
    })
}

fn apply_environment(
    config: &mut Config,
    get: impl Fn(&str) -> Option<String>,
) -> Result<(), ConfigError> {
    fn set<T: std::str::FromStr>(
        to: &mut Option<T>,
        name: &str,
        get: &impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError>
    where
        T::Err: std::fmt::Display,
    {
        if let Some(text) = get(name) {
            let wrong = |error: T::Err| ConfigError::Environment {
                name: name.to_owned(),
                message: error.to_string(),
            };
            *to = Some(text.parse().map_err(wrong)?);
        }
        Ok(())
    }
    set(
        &mut config.default_image_name,
        "BANGER_DEFAULT_IMAGE_NAME",
        &get,
    )?;
    set(&mut config.ssh_key_path, "BANGER_SSH_KEY_PATH", &get)?;
    set(&mut config.bridge_name, "BANGER_BRIDGE_NAME", &get)?;
    set(&mut config.bridge_ip, "BANGER_BRIDGE_IP", &get)?;
    set(&mut config.cidr, "BANGER_CIDR", &get)?;
    set(&mut config.tap_pool_size, "BANGER_TAP_POOL_SIZE", &get)?;
    set(&mut config.default_dns, "BANGER_DEFAULT_DNS", &get)?;
    set(
        &mut config.vm_defaults.vcpu,
        "BANGER_VM_DEFAULTS_VCPU",
        &get,
    )?;
    set(
        &mut config.vm_defaults.memory_mib,
        "BANGER_VM_DEFAULTS_MEMORY_MIB",
        &get,
    )?;
    set(&mut config.disk_reserve, "BANGER_DISK_RESERVE", &get)?;
    set(
        &mut config.vm_defaults.disk_size,
        "BANGER_VM_DEFAULTS_DISK_SIZE",
        &get,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Config, ConfigError> {
        parse(Path::new("config.toml"), text)
    }

    #[test]
    fn an_empty_file_is_fine_and_every_section_is_read() {
        assert_eq!(parsed("").unwrap(), Config::default());
        let config =
            parsed("log_level = \"debug\"\n[vm_defaults]\nvcpu = 3\ndisk_size = \"16G\"\n")
                .unwrap();
        assert_eq!(config.vm_defaults.disk_size, Some(ByteSize::gib(16)));
        assert_eq!(config.log_level.map(LogLevel::as_str), Some("debug"));
    }

    #[test]
    fn unknown_keys_and_wrong_types_say_where_and_what() {
        let error = parsed("default_image = \"x\"").unwrap_err().to_string();
        assert!(
            error.contains("did you mean `default_image_name`"),
            "{error}"
        );
        let error = parsed("\n[vm_defaults]\nvcpu = \"two\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 3"), "{error}");
        assert!(parsed("[vm_defaults]\ndisk_size = \"-1\"").is_err());
        let error = parsed("vmm = \"xen\"").unwrap_err().to_string();
        assert!(error.contains("auto, firecracker, qemu"), "{error}");
    }

    #[test]
    fn every_key_is_documented() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let text = std::fs::read_to_string(path).unwrap();
        for key in KEYS {
            let quoted = [
                format!("`{key}`"),
                format!("`[{key}]`"),
                format!("`[[{key}]]`"),
            ];
            assert!(quoted.iter().any(|key| text.contains(key)), "{key}");
        }
    }

    #[test]
    fn vmm_and_storage_are_one_of_their_words() {
        let config = parsed("vmm = \"firecracker\"\nstorage = \"copy\"").unwrap();
        assert_eq!(config.vmm, Choice::This(VmmKind::Firecracker));
        assert_eq!(config.storage, Choice::This(RootStorage::Copy));
        let auto = parsed("vmm = \"auto\"").unwrap();
        assert_eq!((auto.vmm, auto.storage), (Choice::Auto, Choice::Auto));
        assert!(parsed("storage = \"zfs\"").is_err() && parsed("vmm = 1").is_err());
    }

    #[test]
    fn the_reserve_is_a_size_and_can_be_off() {
        let reserve = |text: &str| parsed(text).map(|config| config.disk_reserve());
        assert_eq!(reserve("").unwrap(), ByteSize(512 << 20));
        assert_eq!(reserve("disk_reserve = \"2G\"").unwrap(), ByteSize::gib(2));
        assert_eq!(reserve("disk_reserve = \"0\"").unwrap(), ByteSize(0));
        assert!(reserve("disk_reserve = \"little\"").is_err());
        let mut config = parsed("disk_reserve = \"2G\"").unwrap();
        let get = |name: &str| (name == "BANGER_DISK_RESERVE").then(|| "64M".to_owned());
        apply_environment(&mut config, get).unwrap();
        assert_eq!(config.disk_reserve(), ByteSize(64 << 20));
    }

    #[test]
    fn the_environment_wins() {
        let mut config = parsed("[vm_defaults]\nvcpu = 3").unwrap();
        let get = |name: &str| (name == "BANGER_VM_DEFAULTS_VCPU").then(|| "5".to_owned());
        apply_environment(&mut config, get).unwrap();
        assert_eq!(config.vm_defaults.vcpu, Some(5));
        let bad = |name: &str| (name == "BANGER_VM_DEFAULTS_VCPU").then(|| "x".to_owned());
        assert!(apply_environment(&mut config, bad).is_err());
    }

    #[test]
    fn the_network_is_checked_and_a_resolver_may_have_a_port() {
        let config = parsed("cidr = \"10.9.0.0/20\"\ndefault_dns = \"127.0.0.1:5353\"").unwrap();
        assert_eq!(config.network().unwrap().prefix, 20);
        let port = config.default_dns.map(|dns| dns.0.port());
        assert_eq!(port, Some(5353));
        let plain = parsed("default_dns = \"fd00::1\"").unwrap().default_dns;
        assert_eq!(plain.map(|dns| dns.0.port()), Some(53));
        let error = parsed("default_dns = \"dns.lan\"").unwrap_err().to_string();
        assert!(error.contains("9.9.9.9"), "{error}");
        assert!(parsed("cidr = \"10.9.0.1/20\"").unwrap().network().is_err());
        assert!(parsed("tap_pool_size = -1").is_err());
    }
}
