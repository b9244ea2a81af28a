//! The grammar of `banger vm workspace`.

use std::path::PathBuf;

use banger_core::ByteSize;
use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Put a local git checkout into a running VM. Again: only what has changed since.
    #[command(
        after_help = "Examples:\n  banger vm workspace prepare demo                       this checkout, into /root/repo\n  banger vm workspace prepare demo ../other --dry-run    what would be sent\n  banger vm workspace prepare demo --branch try --from v1.2\n  banger vm workspace prepare demo --mode full_copy      all history, and submodules"
    )]
    Prepare(PrepareArgs),
    /// Show what the guest has changed since its checkout was put there.
    #[command(
        after_help = "Examples:\n  banger vm workspace diff demo\n  banger vm workspace diff demo --stat"
    )]
    Diff(DiffArgs),
    /// Bring the guest's commits here, under refs/banger/VM/; uncommitted work as one more commit.
    #[command(
        after_help = "Examples:\n  banger vm workspace pull demo\n  banger vm workspace pull demo --branch from-demo\n  git log refs/banger/demo/HEAD"
    )]
    Pull(BackArgs),
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum WorkspaceMode {
    /// Git metadata of one commit, and the tracked files as they are.
    ShallowOverlay,
    /// Git metadata of one commit, and no files.
    MetadataOnly,
    /// All history, all references, the tracked files as they are, and submodules.
    FullCopy,
}

impl From<WorkspaceMode> for banger_workspace::Mode {
    fn from(mode: WorkspaceMode) -> Self {
        match mode {
            WorkspaceMode::ShallowOverlay => Self::ShallowOverlay,
            WorkspaceMode::MetadataOnly => Self::MetadataOnly,
            WorkspaceMode::FullCopy => Self::FullCopy,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PrepareArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// A path in the checkout; without it, here.
    pub(crate) path: Option<PathBuf>,
    /// Folder in the guest, below /root.
    #[arg(long, value_name = "DIR")]
    pub(crate) guest_path: Option<PathBuf>,
    /// What is sent; shallow_overlay unless told otherwise.
    #[arg(long, value_enum)]
    pub(crate) mode: Option<WorkspaceMode>,
    /// The guest works on a branch of this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// It starts at this commit, with its files; without it, HEAD and the files as they are.
    #[arg(long, value_name = "COMMIT")]
    pub(crate) from: Option<String>,
    /// Also files that git does not know and does not ignore.
    #[arg(long)]
    pub(crate) include_untracked: bool,
    /// Mount the folder read-only in the guest.
    #[arg(long)]
    pub(crate) readonly: bool,
    /// List what would be sent, and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Overwrite what the guest has changed itself.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// Folder in the guest.
    #[arg(long, value_name = "DIR")]
    pub(crate) guest_path: Option<PathBuf>,
    /// Names and numbers only.
    #[arg(long)]
    pub(crate) stat: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BackArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// The repository to bring them to; without it, here.
    pub(crate) path: Option<PathBuf>,
    /// Folder in the guest.
    #[arg(long, value_name = "DIR")]
    pub(crate) guest_path: Option<PathBuf>,
    /// Also make a branch of all there is.
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// The most that the guest may send.
    #[arg(long, value_name = "SIZE", default_value = "4G")]
    pub(crate) max_size: ByteSize,
}
