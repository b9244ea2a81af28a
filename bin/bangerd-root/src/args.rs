//! The command line: fixed by whoever has root; no request can change any of it.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use banger_rootops::HelperConfig;

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
    /// An option that must be there.
    #[error("{0} is required")]
    Missing(&'static str),
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) config: HelperConfig,
    pub(crate) foreground: bool,
    /// As given, to start the background process with the same.
    pub(crate) given: Vec<OsString>,
}

impl Args {
    pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, ArgsError> {
        let given: Vec<OsString> = args.collect();
        let mut foreground = false;
        let mut values = std::collections::HashMap::new();
        let mut rest = given.iter();
        while let Some(arg) = rest.next() {
            let name = arg.to_string_lossy();
            if name == "--foreground" {
                foreground = true;
                continue;
            }
            let known = OPTIONS.iter().find(|option| **option == name);
            let (Some(option), Some(value)) = (known, rest.next()) else {
                return Err(ArgsError::Option(name.into_owned()));
            };
            values.insert(*option, value.clone());
        }
        let text = |option: &'static str| {
            let value = values.get(option).ok_or(ArgsError::Missing(option))?;
            Ok::<String, ArgsError>(value.to_string_lossy().into_owned())
        };
        let path = |option| {
            let path = PathBuf::from(text(option)?);
            let absolute = path.is_absolute().then_some(path);
            absolute.ok_or(ArgsError::Value {
                option,
                value: text(option)?,
                expected: "an absolute path",
            })
        };
        let config = HelperConfig {
            owner_uid: number("--owner", &text("--owner")?)?,
            owner_gid: number("--owner-group", &text("--owner-group")?)?,
            runtime_dir: path("--runtime-dir")?,
            bridge: link_name(text("--bridge")?)?,
            bridge_ip: address(&text("--bridge-ip")?)?,
            prefix: prefix(&text("--prefix")?)?,
            qemu: path("--qemu")?,
            vhost_vsock: path("--vhost-vsock")?,
        };
        Ok(Self {
            config,
            foreground,
            given,
        })
    }
}

const OPTIONS: &[&str] = &[
    "--owner",
    "--owner-group",
    "--runtime-dir",
    "--bridge",
    "--bridge-ip",
    "--prefix",
    "--qemu",
    "--vhost-vsock",
];

fn number(option: &'static str, value: &str) -> Result<u32, ArgsError> {
    value.parse().map_err(|_| ArgsError::Value {
        option,
        value: value.to_owned(),
        expected: "a number",
    })
}

/// A link's name also names the firewall's tables, so it is held to what both take.
fn link_name(value: String) -> Result<String, ArgsError> {
    let plain = value
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let starts_well = value.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if plain && starts_well && value.len() <= 12 {
        return Ok(value);
    }
    let expected = "a link name of at most 12 lower-case letters and digits";
    Err(ArgsError::Value {
        option: "--bridge",
        value,
        expected,
    })
}

fn address(value: &str) -> Result<Ipv4Addr, ArgsError> {
    let wrong = || ArgsError::Value {
        option: "--bridge-ip",
        value: value.to_owned(),
        expected: "a private IPv4 address",
    };
    value
        .parse()
        .ok()
        .filter(Ipv4Addr::is_private)
        .ok_or_else(wrong)
}

fn prefix(value: &str) -> Result<u8, ArgsError> {
    let wrong = || ArgsError::Value {
        option: "--prefix",
        value: value.to_owned(),
        expected: "a prefix of 16 to 30 bits",
    };
    value
        .parse()
        .ok()
        .filter(|bits| (16..=30).contains(bits))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: &[(&str, &str)]) -> Result<Args, ArgsError> {
        let mut values = vec![
            ("--owner", "1000"),
            ("--owner-group", "1000"),
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
    fn what_root_fixes_is_checked() {
        assert_eq!(parse(&[]).unwrap().config.owner_uid, 1000);
        for bad in [
            ("--bridge", "a b"),
            ("--bridge", "br0; drop"),
            ("--bridge-ip", "8.8.8.8"),
            ("--prefix", "31"),
            ("--qemu", "qemu"),
            ("--owner", "-1"),
            ("--shell", "sh"),
        ] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
    }
}
