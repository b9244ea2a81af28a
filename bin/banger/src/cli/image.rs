//! The grammar of `banger image`, and what `--image` takes.

use banger_core::{ImageName, ImageRef, KernelName};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use crate::complete;

/// What `--image` takes: the name of an image, or a reference to one that is pulled when it is not there.
#[derive(Debug, Clone)]
pub(crate) enum ImageArg {
    /// In the store.
    Name(ImageName),
    /// Anywhere.
    Reference(ImageRef),
}

impl std::str::FromStr for ImageArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if ImageRef::is_meant_by(text) {
            let parsed = text.parse().map(Self::Reference);
            return parsed.map_err(|error: banger_core::ParseImageRefError| error.to_string());
        }
        let parsed = text.parse().map(Self::Name);
        parsed.map_err(|error: banger_core::ParseNameError| error.to_string())
    }
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Image: a reference, or the name of a recipe.
    pub(crate) image: ImageArg,
    /// Its name here; without it, one is derived: `debian:trixie` becomes `debian-trixie`.
    #[arg(long)]
    pub(crate) name: Option<ImageName>,
    /// Kernel to boot it with, instead of the default one.
    #[arg(long, add = ArgValueCandidates::new(complete::kernels))]
    pub(crate) kernel_ref: Option<KernelName>,
    /// Speak plain HTTP to the registry; to one on this machine it is tried unasked.
    #[arg(long)]
    pub(crate) plain_http: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images.
    #[command(alias = "ls", after_help = "Example:\n  banger image list")]
    List,
    /// Show an image.
    #[command(after_help = "Example:\n  banger image show debian-bookworm")]
    Show {
        /// Image.
        #[arg(add = ArgValueCandidates::new(complete::images))]
        name: String,
    },
    /// Pull an image from a registry, an OCI layout or an archive; it boots as it is.
    #[command(
        after_help = "Examples:\n  banger image pull debian:trixie                     from docker.io, as `debian-trixie`\n  banger image pull ghcr.io/me/tool:1 --name tool\n  banger image pull oci:./layout:latest               a layout directory\n  banger image pull docker-archive:./saved.tar        what `docker save` wrote\n\nCredentials are those of `docker login` and `podman login`. A bare word is the name of a recipe."
    )]
    Pull(PullArgs),
    /// Build an image from its recipe.
    #[command(
        after_help = "Examples:\n  banger image build\n  banger image build debian-minimal\n  banger image build --force"
    )]
    Build {
        /// Recipe; without it, the default image's.
        #[arg(add = ArgValueCandidates::new(complete::images))]
        name: Option<ImageName>,
        /// Also when it exists and its recipe has not changed.
        #[arg(long)]
        force: bool,
    },
}
