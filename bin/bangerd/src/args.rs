//! The command line. The CLI gives all of it; it is the same for a service manager.

use std::path::PathBuf;

use clap::Parser;

/// The owner's daemon of banger.
#[derive(Debug, Clone, Parser)]
#[command(name = "bangerd", version)]
pub(crate) struct Args {
    /// The owner API's socket.
    #[arg(long)]
    pub(crate) socket: PathBuf,
    /// Database, images, kernels, VMs, log.
    #[arg(long)]
    pub(crate) state_dir: PathBuf,
    /// config.toml and keys.
    #[arg(long)]
    pub(crate) config_dir: PathBuf,
    /// The helper's socket.
    #[arg(long)]
    pub(crate) helper_socket: PathBuf,
    /// The guest agent's binary.
    #[arg(long)]
    pub(crate) agent: PathBuf,
    /// Root's decisions, on an installed host: they stand above the owner's configuration.
    #[arg(long)]
    pub(crate) root_config: Option<PathBuf>,
    /// Socket of the service that builds images, on an installed host; without it they are built here.
    #[arg(long)]
    pub(crate) build_socket: Option<PathBuf>,
    /// Descriptor on which one line says `ready`, or what failed.
    #[arg(long)]
    pub(crate) ready_fd: Option<i32>,
    /// Where names are answered on this host.
    #[arg(long, default_value = "127.0.0.1:42069")]
    pub(crate) dns_listen: std::net::SocketAddr,
}
