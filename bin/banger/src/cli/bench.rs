//! The grammar of `banger bench`.

use banger_core::{Choice, ImageName, VmmKind};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Create VMs, one after the other: how long until each is made, and until ssh works.
    #[command(
        after_help = "Examples:\n  banger bench create\n  banger bench create --runs 10 --image debian-minimal -o json"
    )]
    Create(BenchCreateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchCreateArgs {
    /// How many.
    #[arg(long, default_value = "5")]
    pub(crate) runs: std::num::NonZeroU32,
    /// Image; without it, the default one.
    #[arg(long, add = ArgValueCandidates::new(complete::images))]
    pub(crate) image: Option<ImageName>,
    /// The program that runs them: firecracker, qemu, or auto.
    #[arg(long)]
    pub(crate) vmm: Option<Choice<VmmKind>>,
}
