//! The grammar of `banger image`, and what `--image` takes.

use std::path::PathBuf;

use banger_core::{ByteSize, ImageName, ImageRef, KernelName};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use super::catalog::CatalogCommand;
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
    /// Image: a reference, or a name in the catalog (or of a recipe).
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

#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    /// Name; an image of that name is updated.
    #[arg(long)]
    pub(crate) name: ImageName,
    /// Root file system: a file with ext4 in it.
    #[arg(long, value_name = "FILE")]
    pub(crate) rootfs: PathBuf,
    /// Prepared /root that each VM's work disk begins as: a file with ext4 in it.
    #[arg(long, value_name = "FILE")]
    pub(crate) work_seed: Option<PathBuf>,
    /// Its kernel: a vmlinux, a vmlinuz or a .deb.
    #[arg(long, value_name = "FILE", conflicts_with = "kernel_ref")]
    pub(crate) kernel: Option<PathBuf>,
    /// An initramfs for that kernel; banger's agent stays first in it.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// Modules for that kernel: a folder `…/lib/modules/<release>`.
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub(crate) modules: Option<PathBuf>,
    /// A kernel that banger has, by its name in `kernel list`.
    #[arg(long, add = ArgValueCandidates::new(complete::kernels))]
    pub(crate) kernel_ref: Option<KernelName>,
    /// File with what is in it, a line each: `name version`.
    #[arg(long, value_name = "FILE")]
    pub(crate) packages: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images.
    #[command(
        alias = "ls",
        after_help = "Examples:\n  banger image list\n  banger image list --available      what the catalog has"
    )]
    List {
        /// What the configured catalog has.
        #[arg(long)]
        available: bool,
    },
    /// Show an image.
    #[command(after_help = "Example:\n  banger image show debian-bookworm")]
    Show {
        /// Image.
        #[arg(add = ArgValueCandidates::new(complete::images))]
        name: String,
    },
    /// Pull an image from the catalog, a registry, an OCI layout or an archive.
    #[command(
        after_help = "Examples:\n  banger image pull debian-bookworm                   from the catalog, or built where it has none\n  banger image pull debian:trixie                     from docker.io, as `debian-trixie`\n  banger image pull ghcr.io/me/tool:1 --name tool\n  banger image pull oci:./layout:latest               a layout directory\n  banger image pull docker-archive:./saved.tar        what `docker save` wrote\n\nCredentials are those of `docker login` and `podman login`. A bare word is a name in the\ncatalog, with its kernel; banger's own images are built when the catalog does not have them."
    )]
    Pull(PullArgs),
    /// Register files as an image; they stay where they are.
    #[command(
        after_help = "Examples:\n  banger image register --name mine --rootfs ./root.ext4\n  banger image register --name mine --rootfs ./root.ext4 --kernel ./vmlinuz --modules ./lib/modules/6.6.1\n\nThe root and the seed are ext4 file systems, readable for all, on the file system where VMs are kept;\nthey must not change any more. The same name registered again serves VMs to come. A kernel file is\nimported. `banger image promote` makes copies that banger keeps."
    )]
    Register(RegisterArgs),
    /// Copy a registered image's files into banger's own storage; its VMs go on with it.
    #[command(after_help = "Example:\n  banger image promote mine")]
    Promote {
        /// Image.
        #[arg(add = ArgValueCandidates::new(complete::images))]
        name: ImageName,
    },
    /// Delete images that no VM uses. The files of registered ones are left alone.
    #[command(
        alias = "rm",
        after_help = "Example:\n  banger image delete debian-trixie"
    )]
    Delete {
        /// Images.
        #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(complete::images))]
        names: Vec<ImageName>,
    },
    /// Make a catalog of images and kernels for others.
    #[command(
        subcommand,
        after_help = "Examples:\n  banger image catalog build ./catalog --image debian-bookworm\n  banger image catalog publish ./catalog"
    )]
    Catalog(CatalogCommand),
    /// Build an image: from its recipe, on top of another image, or from a Dockerfile.
    #[command(
        after_help = "Examples:\n  banger image build                                        the default image, from its recipe\n  banger image build dev --from debian-bookworm --packages jq,ripgrep --script ./setup.sh\n  banger image build dev --from debian-bookworm --docker --with mise,claude\n  banger image build dev --from debian:trixie --interactive               a shell in it\n  banger image build app -f Dockerfile .\n  banger image build app --target test --build-arg VERSION=2 .\n\nOther images than banger's own are built in a VM of their own, which is deleted afterwards. What a step has made is kept: the same steps again take no time and give the same image. A step that fails leaves its log and no image."
    )]
    Build(BuildArgs),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("image").args(["name", "named"]).multiple(true))]
pub(crate) struct BuildArgs {
    /// Name of the image; alone, that of a recipe; without it, the default image's.
    #[arg(add = ArgValueCandidates::new(complete::images))]
    pub(crate) name: Option<String>,
    /// Folder that a Dockerfile copies from, and is looked for in.
    #[arg(requires = "image", conflicts_with = "from")]
    pub(crate) context: Option<PathBuf>,
    /// Name of the image, as a flag: what stands alone is then the folder.
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) named: Option<ImageName>,
    /// Build a recipe also when its image exists and the recipe has not changed.
    #[arg(long, conflicts_with_all = ["from", "context", "file"])]
    pub(crate) force: bool,
    /// Image to build on: a name, or a reference to one that is pulled when it is not there.
    #[arg(long, alias = "from-image", value_name = "IMAGE", requires = "image", add = ArgValueCandidates::new(complete::images))]
    pub(crate) from: Option<String>,
    /// Packages of the image's own distribution; `@FILE` reads them from a file.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', requires = "from")]
    pub(crate) packages: Vec<String>,
    /// Tools: docker, tmux, mise, opencode, claude, pi.
    #[arg(long, value_name = "TOOL,…", value_delimiter = ',', requires = "from")]
    pub(crate) with: Vec<String>,
    /// Docker Engine with compose; the same as `--with docker`.
    #[arg(long, requires = "from")]
    pub(crate) docker: bool,
    /// Program that is run in it last, as root.
    #[arg(long, value_name = "FILE", requires = "from")]
    pub(crate) script: Option<PathBuf>,
    /// Dockerfile.
    #[arg(
        short,
        long,
        value_name = "FILE",
        requires = "image",
        conflicts_with = "from"
    )]
    pub(crate) file: Option<PathBuf>,
    /// Value of an `ARG`; without one, from the environment.
    #[arg(
        long,
        value_name = "NAME[=VALUE]",
        requires = "image",
        conflicts_with = "from"
    )]
    pub(crate) build_arg: Vec<String>,
    /// Stage that is wanted, by name or number; without it, the last.
    #[arg(
        long,
        value_name = "STAGE",
        requires = "image",
        conflicts_with = "from"
    )]
    pub(crate) target: Option<String>,
    /// Least size of the root file system; at least 8 GiB are free in any case.
    #[arg(long, requires = "image")]
    pub(crate) size: Option<ByteSize>,
    /// Do every step again.
    #[arg(long, requires = "image")]
    pub(crate) no_cache: bool,
    /// Open a shell in the builder when all else is done; what is there afterwards is the image.
    #[arg(long, requires = "image")]
    pub(crate) interactive: bool,
    /// Open a shell in the builder when a step has failed.
    #[arg(long, requires = "image")]
    pub(crate) enter_on_failure: bool,
}
