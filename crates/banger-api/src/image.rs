//! Images.

use banger_core::{ImageName, ImageRef, KernelName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Name.
    pub name: String,
    /// SHA-256 of its root file system.
    pub digest: String,
    /// `built`, `pulled` or `registered`.
    pub origin: String,
    /// Where it was pulled from.
    pub reference: Option<String>,
    /// How a pulled image wants to be run.
    pub config: Option<ImageRunConfig>,
    /// Its root file system.
    pub rootfs: String,
    /// Its work seed.
    pub work_seed: Option<String>,
    /// The kernel it asks for.
    pub kernel: Option<String>,
    /// Apparent size of the root file system in bytes.
    pub size: u64,
    /// Bytes it really occupies.
    pub disk_usage: u64,
    /// Fingerprint of the recipe it was built from.
    pub recipe_fingerprint: Option<String>,
    /// Whether the recipe of this banger has another fingerprint.
    pub stale: bool,
    /// When it was made.
    pub created_at: String,
    /// Programs of note and their versions, `name version`.
    pub contents: Vec<String>,
}

/// How an image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageRunConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entry point.
    pub cmd: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// User, or user and group.
    pub user: String,
    /// Working directory.
    pub working_dir: String,
    /// Ports, `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Signal that ends it.
    pub stop_signal: String,
}

/// Reply of `GET /v1/images`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    /// By name.
    pub images: Vec<Image>,
}

/// Body of `POST /v1/images/build`. Answers `202` with an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildImageRequest {
    /// The recipe, which is also the image's name; without it, the default image.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub name: Option<ImageName>,
    /// Build even when the image exists and its recipe has not changed.
    #[serde(default)]
    pub force: bool,
}

/// Body of `POST /v1/images/pull`. Answers `202` with an operation, whose subject is the image's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImageRequest {
    /// `debian:bookworm`, `oci:DIR[:TAG]`, `oci-archive:FILE`, `docker-archive:FILE`; paths are absolute.
    #[schema(value_type = String)]
    pub reference: ImageRef,
    /// Its name in the store; without it, one derived from the reference, which replaces no other image.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub name: Option<ImageName>,
    /// The kernel that it shall be booted with.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// Speak plain HTTP to the registry; to one on this machine it is tried unasked.
    #[serde(default)]
    pub plain_http: bool,
}
