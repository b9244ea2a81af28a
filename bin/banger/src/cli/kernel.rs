//! The grammar of `banger kernel`.

use std::path::PathBuf;

use banger_core::KernelName;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    /// List kernels.
    #[command(
        alias = "ls",
        after_help = "Examples:\n  banger kernel list\n  banger kernel list --available      what the catalog has"
    )]
    List {
        /// What the configured catalog has.
        #[arg(long)]
        available: bool,
    },
    /// Pull a kernel from the catalog.
    #[command(
        after_help = "Examples:\n  banger kernel list --available      what the catalog has\n  banger kernel pull generic-6.12     one of those"
    )]
    Pull {
        /// Its name in the catalog.
        name: KernelName,
    },
    /// Show a kernel.
    #[command(after_help = "Example:\n  banger kernel show 6.1.0-41-cloud-amd64")]
    Show {
        /// Kernel.
        #[arg(add = ArgValueCandidates::new(complete::kernels))]
        name: String,
    },
    /// Delete kernels that no VM and no image uses.
    #[command(
        alias = "rm",
        after_help = "Example:\n  banger kernel delete 6.1.0-41-cloud-amd64"
    )]
    Delete {
        /// Kernels.
        #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(complete::kernels))]
        names: Vec<KernelName>,
    },
    /// Import a kernel: a file (vmlinux, vmlinuz, .deb), the host's own, or a Debian package.
    #[command(
        after_help = "Examples:\n  banger kernel import                              Debian's newest cloud kernel\n  banger kernel import --package linux-image-amd64\n  banger kernel import --host\n  banger kernel import ./vmlinuz --modules ./lib/modules/6.6.1"
    )]
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file.
    #[arg(conflicts_with_all = ["package", "host"])]
    pub(crate) file: Option<PathBuf>,
    /// Its modules: a folder `…/lib/modules/<release>`.
    #[arg(long, requires = "file")]
    pub(crate) modules: Option<PathBuf>,
    /// A Debian package, fetched by the host's package manager.
    #[arg(long, conflicts_with = "host")]
    pub(crate) package: Option<String>,
    /// The kernel that this host runs.
    #[arg(long)]
    pub(crate) host: bool,
    /// Name; without it, the release.
    #[arg(long)]
    pub(crate) name: Option<KernelName>,
}
