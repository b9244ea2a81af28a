//! The command line: written by the helper, never by a person.

use std::os::unix::net::UnixListener;

use banger_vhost_vsock::sys;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// A socket that we inherit or make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    Inherited(i32),
    At(String),
}

impl Socket {
    pub(crate) fn listen(self) -> std::io::Result<UnixListener> {
        match self {
            Self::Inherited(fd) => sys::inherited_listener(fd),
            Self::At(path) => UnixListener::bind(path),
        }
    }
}

/// A vsock device to serve.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) guest_cid: u64,
    pub(crate) vhost: Socket,
    pub(crate) host: Socket,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// The user to become, and groups besides.
    pub(crate) user: Option<(u32, Vec<u32>)>,
    /// Where our own words go, and those of the VMM.
    pub(crate) log: Option<String>,
    pub(crate) vmm_log: Option<String>,
    pub(crate) device: Option<Device>,
    /// The VMM to start and its arguments.
    pub(crate) vmm: Vec<String>,
}

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let (mut user, mut groups) = (None, vec![]);
        let (mut log, mut vmm_log) = (None, None);
        let (mut guest_cid, mut vhost, mut host) = (None, None, None);
        let mut vmm = vec![];
        while let Some(option) = words.next() {
            if option == "--" {
                vmm = words.by_ref().collect();
                if vmm.is_empty() {
                    return Err("there is no program after --".into());
                }
                break;
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{option} needs a value"))?;
            match option.as_str() {
                "--become" => user = Some(value.parse()?),
                "--group" => groups.push(value.parse()?),
                "--log" => log = Some(value),
                "--vmm-log" => vmm_log = Some(value),
                "--guest-cid" => guest_cid = Some(value.parse()?),
                "--vhost-fd" => vhost = Some(Socket::Inherited(value.parse()?)),
                "--host-fd" => host = Some(Socket::Inherited(value.parse()?)),
                "--vhost-socket" => vhost = Some(Socket::At(value)),
                "--host-socket" => host = Some(Socket::At(value)),
                _ => return Err(format!("unknown option {option}").into()),
            }
        }
        if user == Some(0) {
            return Err("--become: no VM runs as root".into());
        }
        let device = match (guest_cid, vhost, host) {
            (Some(guest_cid), Some(vhost), Some(host)) => Some(Device {
                guest_cid,
                vhost,
                host,
            }),
            (None, None, None) if !vmm.is_empty() => None,
            (None, ..) => return Err("--guest-cid is required".into()),
            (_, None, _) => return Err("--vhost-fd or --vhost-socket is required".into()),
            (_, _, None) => return Err("--host-fd or --host-socket is required".into()),
        };
        Ok(Self {
            user: user.map(|uid| (uid, groups)),
            log,
            vmm_log,
            device,
            vmm,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, Failure> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_device_alone_a_vmm_alone_and_both() {
        let device = parsed("--guest-cid 3 --vhost-fd 4 --host-fd 5").unwrap();
        assert!(device.vmm.is_empty() && device.user.is_none());
        let vmm = parsed("--become 880001 --group 105 --vmm-log l -- /fc --id x").unwrap();
        assert_eq!(vmm.device, None);
        assert_eq!(vmm.user, Some((880_001, vec![105])));
        assert_eq!(vmm.vmm, ["/fc", "--id", "x"]);
        let both = parsed("--guest-cid 3 --vhost-socket v --host-socket h -- /q --guest-cid 9");
        let both = both.unwrap();
        assert_eq!(both.device.unwrap().guest_cid, 3);
        assert_eq!(both.vmm, ["/q", "--guest-cid", "9"]);
    }

    #[test]
    fn half_a_command_line_is_none() {
        for bad in [
            "",
            "--",
            "--guest-cid",
            "--guest-cid x",
            "--guest-cid 3 --vhost-fd 4",
            "--guest-cid 3 --host-fd 4",
            "--vhost-fd 4 --host-fd 5",
            "--guest-cid 3 --vhost-fd 4 -- /q",
            "--become 0 -- /q",
            "--become me -- /q",
            "--shell sh",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
