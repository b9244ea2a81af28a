//! Where everything lies on an installed host.

use std::path::{Path, PathBuf};

/// Root's configuration and the record of the installation.
pub const CONFIG_DIR: &str = "/etc/banger";
/// What root acts on.
pub const ROOT_CONFIG: &str = "/etc/banger/root.toml";
/// What was installed.
pub const RECORD: &str = "/etc/banger/install.json";
/// The owner's database, images, kernels and VMs.
pub const STATE_DIR: &str = "/var/lib/banger";
/// What can be made again.
pub const CACHE_DIR: &str = "/var/cache/banger";
/// The owner API's socket is in here.
pub const RUNTIME_DIR: &str = "/run/banger";
/// The helper's socket, ledger and log.
pub const HELPER_DIR: &str = "/run/banger-root/installed";
/// Where the daemon has images built.
pub const BUILD_SOCKET: &str = "/run/banger-build.sock";
/// Every unit, those that are started at boot first.
pub const UNITS: &[&str] = &[
    "bangerd-root.socket",
    "bangerd-build.socket",
    "bangerd.service",
    "banger-guests.service",
    "bangerd-root.service",
    "bangerd-build@.service",
    "banger.slice",
];
pub(crate) const UNIT_DIR: &str = "/etc/systemd/system";

/// The root-owned folder of programs.
#[must_use]
pub fn lib_dir(prefix: &Path) -> PathBuf {
    prefix.join("lib/banger")
}
