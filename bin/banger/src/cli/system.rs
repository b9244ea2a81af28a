//! The grammar of `banger system`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Install banger for one user, or upgrade it in place: running VMs go on.
    #[command(
        after_help = "Examples:\n  sudo ./target/release/banger system install --owner \"$USER\"\n  sudo banger system install --owner alice --firecracker ./firecracker --cidr 10.9.0.0/24\n\nWhat an earlier installation was told and is not told again stays."
    )]
    Install(InstallArgs),
    /// Show owner, versions, units, paths and what differs from the installation; exit 1 when something is wrong.
    #[command(after_help = "Example:\n  banger system status -o json")]
    Status,
    /// Restart daemon and helper. VMs go on running.
    #[command(after_help = "Example:\n  sudo banger system restart")]
    Restart,
    /// Remove the installation; the data stays unless told otherwise.
    #[command(
        after_help = "Examples:\n  sudo banger system uninstall\n  sudo banger system uninstall --force --purge    also running VMs and all data"
    )]
    Uninstall(UninstallArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The user whom it serves; under sudo, the one who called it.
    #[arg(long, env = "SUDO_USER", hide_env_values = true)]
    pub(crate) owner: String,
    /// Programs go to DIR/bin and DIR/lib/banger (/usr unless told otherwise).
    #[arg(long, value_name = "DIR")]
    pub(crate) prefix: Option<PathBuf>,
    /// A Firecracker binary to copy: VMs run in it where KVM works.
    #[arg(long, value_name = "PATH")]
    pub(crate) firecracker: Option<PathBuf>,
    /// The bridge's name (banger0 unless told otherwise).
    #[arg(long, value_name = "NAME")]
    pub(crate) bridge: Option<String>,
    /// The host's address on the bridge; without it, the subnet's first.
    #[arg(long, value_name = "IP")]
    pub(crate) bridge_ip: Option<std::net::Ipv4Addr>,
    /// The guests' subnet (172.16.0.0/24 unless told otherwise).
    #[arg(long, value_name = "NET/BITS")]
    pub(crate) cidr: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Also when VMs run (they are stopped), or when it is not known.
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Delete the data, too: VMs, images, kernels.
    #[arg(long)]
    pub(crate) purge: bool,
}
