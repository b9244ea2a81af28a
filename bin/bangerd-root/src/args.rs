//! The command line: fixed by whoever has root; no request can change any of it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use banger_rootops::{Config, ConfigError};

use crate::config_file::{self, FileError};

/// What is wrong with the command line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArgsError {
    /// Not an option, or without its value.
    #[error("unknown option or missing value: {0}")]
    Option(String),
    /// A value of the wrong kind.
    #[error("{option}: `{value}` is not {expected}")]
    Value {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A value out of range.
    #[error("the command line is refused")]
    Config(#[source] ConfigError),
    /// An option that must be there.
    #[error("{0} is required")]
    Missing(&'static str),
    /// The file that holds the options.
    #[error("the configuration file cannot be used")]
    File(#[source] FileError),
    /// Options beside the file.
    #[error("{0} stands in the file that --config names, and is not an option beside it")]
    Beside(&'static str),
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) config: Config,
    pub(crate) foreground: bool,
    /// End every VM and remove what was made, instead of serving.
    pub(crate) clear: bool,
    /// As given, to start the background process with the same.
    pub(crate) given: Vec<OsString>,
}

impl Args {
    pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, ArgsError> {
        let given: Vec<OsString> = args.collect();
        let (mut foreground, mut clear) = (false, false);
        let mut file = None;
        let mut values: HashMap<&'static str, OsString> = HashMap::new();
        let mut rest = given.iter();
        while let Some(arg) = rest.next() {
            let name = arg.to_string_lossy();
            if name == "--foreground" {
                foreground = true;
                continue;
            }
            if name == "--clear" {
                clear = true;
                continue;
            }
            if name == "--config" {
                file = rest.next().map(PathBuf::from);
                if file.is_none() {
                    return Err(ArgsError::Option(name.into_owned()));
                }
                continue;
            }
            let known = OPTIONS.iter().find(|option| **option == name);
            let (Some(option), Some(value)) = (known, rest.next()) else {
                return Err(ArgsError::Option(name.into_owned()));
            };
            values.insert(*option, value.clone());
        }
        if let Some(path) = file {
            if let Some(option) = values.keys().next() {
                return Err(ArgsError::Beside(option));
            }
            values = config_file::read(&path, OPTIONS).map_err(ArgsError::File)?;
        }
        let text = |option: &'static str| {
            let value = values.get(option).ok_or(ArgsError::Missing(option))?;
            Ok::<String, ArgsError>(value.to_string_lossy().into_owned())
        };
        let config = Config {
            owner: parse("--owner", &text("--owner")?, "a user id")?,
            runtime_dir: text("--runtime-dir")?.into(),
            bridge: text("--bridge")?,
            bridge_ip: parse("--bridge-ip", &text("--bridge-ip")?, "an IPv4 address")?,
            prefix: parse("--prefix", &text("--prefix")?, "a number of bits")?,
            qemu: text("--qemu")?.into(),
            vhost_vsock: text("--vhost-vsock")?.into(),
            firecracker: values.get("--firecracker").map(PathBuf::from),
            slice: match values.get("--slice") {
                Some(_) => Some(text("--slice")?),
                None => None,
            },
            max_vms: match values.get("--max-vms") {
                Some(_) => parse("--max-vms", &text("--max-vms")?, "a number")?,
                None => DEFAULT_MAX_VMS,
            },
        };
        config.check().map_err(ArgsError::Config)?;
        Ok(Self {
            config,
            foreground,
            clear,
            given,
        })
    }
}

const OPTIONS: &[&str] = &[
    "--owner",
    "--runtime-dir",
    "--bridge",
    "--bridge-ip",
    "--prefix",
    "--qemu",
    "--vhost-vsock",
    "--firecracker",
    "--slice",
    "--max-vms",
];

/// How many VMs an owner may run at once, when it is not said.
const DEFAULT_MAX_VMS: usize = 256;

fn parse<T: std::str::FromStr>(
    option: &'static str,
    value: &str,
    expected: &'static str,
) -> Result<T, ArgsError> {
    value.parse().map_err(|_| ArgsError::Value {
        option,
        value: value.to_owned(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(change: &[(&str, &str)]) -> Result<Args, ArgsError> {
        let mut values = vec![
            ("--owner", "1000"),
            ("--runtime-dir", "/run/banger-root/x"),
            ("--bridge", "banger0"),
            ("--bridge-ip", "172.16.0.1"),
            ("--prefix", "24"),
            ("--qemu", "/usr/bin/qemu-system-x86_64"),
            ("--vhost-vsock", "/usr/bin/banger-vhost-vsock"),
        ];
        for (option, value) in change {
            values.retain(|(name, _)| name != option);
            values.push((option, value));
        }
        let words = values
            .iter()
            .flat_map(|(name, value)| [OsString::from(*name), OsString::from(*value)]);
        Args::parse(words)
    }

    #[test]
    fn a_file_holds_all_options_or_none() {
        let with = |more: &[&str]| {
            let words = ["--config", "/nowhere/root.toml"].iter().chain(more);
            Args::parse(words.map(OsString::from)).unwrap_err()
        };
        assert!(matches!(with(&[]), ArgsError::File(_)));
        assert!(matches!(
            with(&["--owner", "7"]),
            ArgsError::Beside("--owner")
        ));
        let alone = Args::parse([OsString::from("--config")].into_iter());
        assert!(matches!(alone, Err(ArgsError::Option(_))));
    }

    #[test]
    fn what_root_fixes_is_checked() {
        let config = parsed(&[]).unwrap().config;
        assert_eq!((config.owner, config.firecracker), (1000, None));
        let given = parsed(&[("--firecracker", "/opt/fc")]).unwrap().config;
        assert_eq!(given.firecracker, Some("/opt/fc".into()));
        for bad in [
            ("--bridge", "a b"),
            ("--bridge", "br0; drop"),
            ("--bridge-ip", "8.8.8.8"),
            ("--prefix", "31"),
            ("--qemu", "qemu"),
            ("--firecracker", "firecracker"),
            ("--owner", "-1"),
            ("--shell", "sh"),
        ] {
            assert!(parsed(&[bad]).is_err(), "{bad:?}");
        }
    }
}
