//! Every key of the configuration: the one list that reading, `config show` and the reference in
//! `docs/configuration.md` go by.

/// A key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// Its name, below its section: `vm_defaults.vcpu`.
    pub(crate) path: &'static str,
    /// What holds when nobody says anything, for people.
    pub(crate) default: &'static str,
    /// Whether it is one value, which the environment can give as well.
    pub(crate) is_value: bool,
}

const fn value(path: &'static str, default: &'static str) -> Key {
    Key {
        path,
        default,
        is_value: true,
    }
}

const fn part(path: &'static str) -> Key {
    Key {
        path,
        default: "none",
        is_value: false,
    }
}

/// In the order of the reference.
pub(crate) const KEYS: &[Key] = &[
    value("log_level", "info"),
    value("ssh_key_path", "~/.config/banger/ssh/id_ed25519"),
    value("default_image_name", "debian-bookworm"),
    value("vmm", "auto"),
    value("storage", "auto"),
    value("firecracker_bin", "from PATH"),
    value("disk_reserve", "512M"),
    value("bridge_name", "banger0"),
    value("bridge_ip", "first of cidr"),
    value("cidr", "172.16.0.0/24"),
    value("tap_pool_size", "0"),
    value("default_dns", "the host's"),
    value("stats_poll_interval", "1s"),
    value("metrics_poll_interval", "15s"),
    value("auto_stop_stale_after", "0"),
    value("vm_defaults.vcpu", "from the host"),
    value("vm_defaults.memory_mib", "from the host"),
    value("vm_defaults.disk_size", "8G"),
    value("catalog.location", "none"),
    value("catalog.public_key", "none"),
    part("file_sync.host"),
    part("file_sync.guest"),
    part("file_sync.mode"),
];

/// Keys of what is to come: refused, with a better word than that they are unknown.
pub(crate) const LATER: &[(&str, &str)] = &[("web_listen_addr", "the web page")];

impl Key {
    /// The variable that goes before the file.
    pub(crate) fn variable(&self) -> Option<String> {
        let name = self.path.to_uppercase().replace('.', "_");
        self.is_value.then(|| format!("BANGER_{name}"))
    }

    /// Section and name; the section is empty at the top.
    pub(crate) fn parts(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }
}
