//! `config.toml`: every key optional, unknown keys refused with the nearest known one. The environment
//! goes before the file, and each value's origin is kept.

mod file_sync;
mod keys;
mod places;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use banger_catalog::{Location, TrustedKey};
use banger_core::{
    ByteSize, Choice, ImageName, MemoryMib, NetworkPlan, NetworkPlanError, NetworkSettings,
    RootStorage, TimeSpan, VmmKind,
};
use serde::Deserialize;
use toml::{Table, Value};

pub(crate) use file_sync::{FileSync, SyncedPath};
pub(crate) use keys::{KEYS, Key};
pub(crate) use places::Place;

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

/// The configuration, and where its values come from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) origins: Origins,
    /// What guests get of the owner's files.
    pub(crate) synced: Vec<SyncedPath>,
}

/// Where the values come from that are no defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Origins {
    /// The file, whether it is there or not.
    pub(crate) file: PathBuf,
    /// What stands in it.
    pub(crate) places: Vec<Place>,
    /// What the environment says: key, variable, value.
    pub(crate) variables: Vec<(&'static str, String, String)>,
}

impl Origins {
    /// The variable or the line that gives a key, for people.
    pub(crate) fn of(&self, path: &str) -> Option<String> {
        if let Some((_, variable, _)) = self.variables.iter().find(|(key, ..)| *key == path) {
            return Some(variable.clone());
        }
        let place = self.places.iter().find(|place| place.path == path)?;
        Some(format!("{}:{}", self.file.display(), place.line))
    }
}

/// The configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) log_level: Option<LogLevel>,
    pub(crate) firecracker_bin: Option<PathBuf>,
    pub(crate) ssh_key_path: Option<PathBuf>,
    pub(crate) default_image_name: Option<ImageName>,
    pub(crate) auto_stop_stale_after: Option<TimeSpan>,
    pub(crate) stats_poll_interval: Option<TimeSpan>,
    pub(crate) metrics_poll_interval: Option<TimeSpan>,
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
    pub(crate) catalog: CatalogKeys,
}

/// `[catalog]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CatalogKeys {
    pub(crate) location: Option<Location>,
    pub(crate) public_key: Option<TrustedKey>,
}

impl CatalogKeys {
    /// One without the other is of no use.
    fn check(&self) -> Result<(), &'static str> {
        match (&self.location, &self.public_key) {
            (Some(_), None) => Err(
                "catalog.location needs catalog.public_key: nothing is taken from a catalog whose maker is not known",
            ),
            (None, Some(_)) => Err("catalog.public_key needs catalog.location"),
            _ => Ok(()),
        }
    }
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
    #[serde(deserialize_with = "memory")]
    pub(crate) memory_mib: Option<MemoryMib>,
    #[serde(deserialize_with = "size")]
    pub(crate) disk_size: Option<ByteSize>,
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// A number of MiB, or a size as the command line takes it.
fn memory<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<MemoryMib>, D::Error> {
    let text = match Value::deserialize(d)? {
        Value::Integer(mib) => mib.to_string(),
        Value::String(text) => text,
        _ => "neither a number of MiB nor a size".to_owned(),
    };
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Reads the file, when it is there, and what the environment says instead.
pub(crate) fn load(path: &Path, home: &Path) -> Result<Loaded, ConfigError> {
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
    parse(path, &text, home, |name| std::env::var(name).ok())
}

/// What a file's text and the environment say together.
fn parse(
    path: &Path,
    text: &str,
    home: &Path,
    get: impl Fn(&str) -> Option<String>,
) -> Result<Loaded, ConfigError> {
    let wrong = |message: String| ConfigError::Parse {
        path: path.to_owned(),
        message,
    };
    let places = places::find(text).map_err(wrong)?;
    let malformed = |error: toml::de::Error| wrong(error.to_string().trim().to_owned());
    let _: Config = toml::from_str(text).map_err(malformed)?;
    let mut table: Table = toml::from_str(text).map_err(malformed)?;
    let mut variables = vec![];
    for key in KEYS {
        let Some(name) = key.variable() else { continue };
        let Some(given) = get(&name) else { continue };
        let value = from_environment(*key, &given).map_err(|message| ConfigError::Environment {
            name: name.clone(),
            message,
        })?;
        put(&mut table, *key, value);
        variables.push((key.path, name, given));
    }
    let config: Config = table.try_into().map_err(malformed)?;
    let checked = config.catalog.check();
    checked.map_err(|what| wrong(what.to_owned()))?;
    let line = |path: &str| {
        places
            .iter()
            .find(|place| place.path == path)
            .map(|place| place.line)
    };
    let check = |(at, entry): (usize, &FileSync)| {
        entry.check(home).map_err(|(key, what)| {
            let key = format!("file_sync[{at}].{key}");
            let line = line(&key).map_or(String::new(), |line| format!("line {line}: "));
            wrong(format!("{line}{key}: {what}"))
        })
    };
    let synced = config.file_sync.iter().enumerate().map(check);
    let synced = synced.collect::<Result<_, _>>()?;
    Ok(Loaded {
        config,
        synced,
        origins: Origins {
            file: path.to_owned(),
            places,
            variables,
        },
    })
}

/// A variable's value, as the key takes it: a number where it is one, else a text.
fn from_environment(key: Key, given: &str) -> Result<Value, String> {
    let text = Value::String(given.to_owned());
    let number = given.parse().ok().map(Value::Integer);
    let mut told = String::new();
    for value in number.into_iter().chain([text]) {
        let mut table = Table::new();
        put(&mut table, key, value.clone());
        match table.try_into::<Config>() {
            Ok(_) => return Ok(value),
            Err(error) => error.message().clone_into(&mut told),
        }
    }
    Err(told)
}

fn put(table: &mut Table, key: Key, value: Value) {
    let (section, name) = key.parts();
    if section.is_empty() {
        table.insert(name.to_owned(), value);
        return;
    }
    let section = table.entry(section).or_insert_with(|| Table::new().into());
    if let Value::Table(section) = section {
        section.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "/home/me";
    /// A public key of minisign's.
    const KEY: &str = "RWRCR2pW0tEHpLm8NdmW0r8mWXgkCSBHxvTwWRmtDfuDJp38p+Ol3HKB";

    fn parsed(text: &str) -> Result<Config, ConfigError> {
        parse(Path::new("config.toml"), text, HOME.as_ref(), |_| None).map(|loaded| loaded.config)
    }

    /// The same with one variable set.
    fn with(text: &str, name: &str, value: &str) -> Result<Loaded, ConfigError> {
        let get = |asked: &str| (asked == name).then(|| value.to_owned());
        parse(Path::new("config.toml"), text, HOME.as_ref(), get)
    }

    #[test]
    fn a_catalog_has_a_place_and_a_key() {
        let full =
            format!("[catalog]\nlocation = \"https://images.example/c\"\npublic_key = \"{KEY}\"");
        let config = parsed(&full).unwrap();
        assert_eq!(
            config.catalog.location.unwrap().to_string(),
            "https://images.example/c"
        );
        assert_eq!(config.catalog.public_key.unwrap().as_str(), KEY);
        let without = "[catalog]\nlocation = \"/srv/c\"";
        let error = parsed(without).unwrap_err().to_string();
        assert!(error.contains("catalog.public_key"), "{error}");
        let given = with(without, "BANGER_CATALOG_PUBLIC_KEY", KEY).unwrap();
        assert!(given.config.catalog.public_key.is_some());
        for bad in [
            "[catalog]\npublic_key = \"RW\"\nlocation = \"/srv\"",
            "[catalog]\nlocation = \"http://images.example\"",
            "[catalog]\nlocation = \"c\"",
            "[catalog]\nlocation = 1",
            "[catalog]\nlocations = \"/srv\"",
            "catalog = \"/srv\"",
            &format!("[catalog]\npublic_key = \"{KEY}\""),
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
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
            assert!(text.contains(&format!("`{}`", key.path)), "{}", key.path);
            if let Some(variable) = key.variable() {
                assert!(text.contains(&format!("`{variable}`")), "{variable}");
            }
        }
        // The example has every key, commented out; with the signs taken away it is a configuration.
        let example = text
            .split("```toml\n")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        let uncommented: String = example
            .lines()
            .map(|line| {
                line.strip_prefix("#")
                    .filter(|rest| !rest.starts_with(' '))
                    .unwrap_or(line)
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let loaded = parse(Path::new("example"), &uncommented, HOME.as_ref(), |_| None).unwrap();
        for key in KEYS {
            let (section, name) = key.parts();
            let array = format!("{section}[0].{name}");
            let there = |place: &Place| place.path == key.path || place.path == array;
            assert!(
                loaded.origins.places.iter().any(there),
                "{} in the example",
                key.path
            );
        }
    }

    #[test]
    fn a_path_that_lies_elsewhere_is_an_error_with_its_line() {
        let text = "[[file_sync]]\nhost = \"~/a\"\nguest = \"~/a\"\n[[file_sync]]\nhost = \"~/b\"\n\nguest = \"/etc/b\"";
        let error = parsed(text).unwrap_err().to_string();
        let told = "line 7: file_sync[1].guest: \"/etc/b\" is not below the guest's /root";
        assert!(error.contains(told), "{error}");
        let error = parsed("[[file_sync]]\nhost = \"/etc/shadow\"\nguest = \"~/a\"");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("not below your home (/home/me)"), "{error}");
        assert!(
            parsed("[[file_sync]]\nhost = \"~/a\"").is_err(),
            "without guest"
        );
        assert!(parsed("file_sync = \"~/a\"").is_err());
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
        let loaded = with("disk_reserve = \"2G\"", "BANGER_DISK_RESERVE", "64M").unwrap();
        assert_eq!(loaded.config.disk_reserve(), ByteSize(64 << 20));
        let off = with("", "BANGER_DISK_RESERVE", "0").unwrap();
        assert_eq!(off.config.disk_reserve(), ByteSize(0));
    }

    #[test]
    fn the_environment_wins_and_says_what_is_wrong_with_it() {
        let text = "[vm_defaults]\nvcpu = 3\nmemory_mib = 512";
        let loaded = with(text, "BANGER_VM_DEFAULTS_VCPU", "5").unwrap();
        assert_eq!(loaded.config.vm_defaults.vcpu, Some(5));
        let origin = loaded.origins.of("vm_defaults.vcpu");
        assert_eq!(origin.as_deref(), Some("BANGER_VM_DEFAULTS_VCPU"));
        let origin = loaded.origins.of("vm_defaults.memory_mib");
        assert_eq!(origin.as_deref(), Some("config.toml:3"));
        assert_eq!(loaded.origins.of("vm_defaults.disk_size"), None);
        let loaded = with("", "BANGER_VM_DEFAULTS_MEMORY_MIB", "4G").unwrap();
        assert_eq!(loaded.config.vm_defaults.memory_mib, Some(MemoryMib(4096)));
        let loaded = with("", "BANGER_DEFAULT_IMAGE_NAME", "123").unwrap();
        assert_eq!(loaded.config.default_image_name.unwrap().as_str(), "123");
        for (name, value, told) in [
            ("BANGER_VM_DEFAULTS_VCPU", "x", "BANGER_VM_DEFAULTS_VCPU"),
            ("BANGER_VMM", "xen", "auto, firecracker, qemu"),
            ("BANGER_STATS_POLL_INTERVAL", "soon", "write one like 10s"),
            ("BANGER_TAP_POOL_SIZE", "-1", "BANGER_TAP_POOL_SIZE"),
            ("BANGER_LOG_LEVEL", "loud", "BANGER_LOG_LEVEL"),
        ] {
            let error = with("", name, value).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn every_value_can_come_from_the_environment() {
        let examples = [
            ("log_level", "debug"),
            ("ssh_key_path", "/k"),
            ("default_image_name", "i"),
            ("vmm", "qemu"),
            ("storage", "copy"),
            ("firecracker_bin", "/f"),
            ("disk_reserve", "1G"),
            ("bridge_name", "b0"),
            ("bridge_ip", "10.0.0.1"),
            ("cidr", "10.0.0.0/24"),
            ("tap_pool_size", "3"),
            ("default_dns", "9.9.9.9"),
            ("stats_poll_interval", "2s"),
            ("metrics_poll_interval", "1m"),
            ("auto_stop_stale_after", "2h"),
            ("vm_defaults.vcpu", "1"),
            ("vm_defaults.memory_mib", "512"),
            ("vm_defaults.disk_size", "16G"),
            ("catalog.location", "/srv/catalog"),
            ("catalog.public_key", KEY),
        ];
        for key in KEYS.iter().filter(|key| key.is_value) {
            let example = examples.iter().find(|(path, _)| *path == key.path);
            let (_, value) = example.unwrap_or_else(|| panic!("{} has no example", key.path));
            // One of these says nothing without the other.
            let rest = match key.path {
                "catalog.location" => format!("[catalog]\npublic_key = \"{KEY}\""),
                "catalog.public_key" => "[catalog]\nlocation = \"/srv\"".to_owned(),
                _ => String::new(),
            };
            let loaded = with(&rest, &key.variable().unwrap(), value).unwrap();
            assert_ne!(loaded.config, Config::default(), "{}", key.path);
        }
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
