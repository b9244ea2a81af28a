//! Kernels.

use banger_core::KernelName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A kernel in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kernel {
    /// Name.
    pub name: String,
    /// Its `uname -r`.
    pub release: String,
    /// SHA-256 of its `vmlinux`.
    pub digest: String,
    /// Where it was imported from, for people.
    pub source: String,
    /// Its ELF image.
    pub vmlinux: String,
    /// Its modules drive.
    pub modules: Option<String>,
    /// What of it goes into every initramfs.
    #[serde(default)]
    pub segment: String,
    /// Its own initramfs.
    #[serde(default)]
    pub initrd: Option<String>,
    /// Whether it is what images without a kernel of their own get.
    pub default: bool,
    /// When it was imported.
    pub created_at: String,
}

/// Reply of `GET /v1/kernels`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KernelList {
    /// By name.
    pub kernels: Vec<Kernel>,
}

/// Body of `POST /v1/kernels/import`. Answers `202` with an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKernelRequest {
    /// Name; without it, derived from the release.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub name: Option<KernelName>,
    /// What to import.
    pub source: KernelSource,
}

/// What a kernel is imported from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum KernelSource {
    /// A Debian package by name, fetched by the host's package manager; without a name, the
    /// default cloud kernel.
    Package {
        /// `linux-image-…`.
        package: Option<String>,
    },
    /// The kernel this host runs.
    Host {},
    /// A file: `vmlinux`, `vmlinuz` or `.deb`.
    File {
        /// Absolute path.
        path: String,
        /// A folder of modules for it (`…/lib/modules/<release>`), absolute.
        modules: Option<String>,
    },
}
