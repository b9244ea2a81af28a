//! The grammar of `banger image catalog`.

use std::path::PathBuf;

use banger_core::{ImageName, KernelName};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum CatalogCommand {
    /// Put images and kernels of this host into a folder that becomes a catalog.
    #[command(
        after_help = "Examples:\n  banger image catalog build ./catalog --image debian-bookworm\n  banger image catalog build ./catalog --image mine --kernel generic-6.12\n\nEach image brings the kernel that it asks for, or the default one. What is there already stays,\nunless something of that name is put in anew. `banger image catalog publish` signs it."
    )]
    Build(CatalogBuildArgs),
    /// Sign a catalog's index, and copy it to the folder that is served.
    #[command(
        after_help = "Examples:\n  banger image catalog publish ./catalog\n  banger image catalog publish ./catalog --to /srv/www/catalog\n  banger image catalog publish ./catalog --key ~/minisign.key\n\nEvery file is checked first. The key is minisign's; the first time one without a password is made.\nAny web server serves the folder; whoever takes from it puts the public key into config.toml."
    )]
    Publish(CatalogPublishArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CatalogBuildArgs {
    /// The folder; it is made when it is not there.
    pub(crate) folder: PathBuf,
    /// An image; may be given several times.
    #[arg(long = "image", value_name = "NAME", required_unless_present = "kernels", add = ArgValueCandidates::new(complete::images))]
    pub(crate) images: Vec<ImageName>,
    /// A kernel; may be given several times.
    #[arg(long = "kernel", value_name = "NAME", add = ArgValueCandidates::new(complete::kernels))]
    pub(crate) kernels: Vec<KernelName>,
}

#[derive(Debug, Args)]
pub(crate) struct CatalogPublishArgs {
    /// The folder that `catalog build` made.
    pub(crate) folder: PathBuf,
    /// Secret key of minisign's; without it, `catalog.key` beside the configuration, which is made when it is missing.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Bring it to this folder, files first and the index last.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
}
