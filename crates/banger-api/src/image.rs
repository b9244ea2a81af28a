//! Images.

use std::collections::BTreeMap;

use banger_core::{ImageName, ImageRef, KernelName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Name.
    pub name: String,
    /// Whether it is what VMs get that ask for none.
    #[serde(default)]
    pub default: bool,
    /// SHA-256 of its root file system.
    pub digest: String,
    /// `built`, `pulled` or `registered`.
    pub origin: String,
    /// Where it was pulled from.
    pub reference: Option<String>,
    /// How a pulled image wants to be run.
    pub config: Option<ImageRunConfig>,
    /// The catalog that it was taken from.
    #[serde(default)]
    pub catalog: Option<String>,
    /// Its root file system.
    pub rootfs: String,
    /// Its work seed.
    pub work_seed: Option<String>,
    /// `current`, `stale` or `missing`: the latter two are put right after the next create.
    #[serde(default)]
    pub work_seed_state: String,
    /// What its work seed was made from, where that is known.
    #[serde(default)]
    pub work_seed_origin: Option<WorkSeedOrigin>,
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
    /// A file of a registered image that is gone or has changed since: it must be registered again.
    #[serde(default)]
    pub changed: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// Programs of note and their versions, `name version`.
    pub contents: Vec<String>,
    /// Units that it promises.
    #[serde(default)]
    pub ready: Vec<String>,
    /// The image that it was built on.
    #[serde(default)]
    pub built_on: Option<String>,
}

/// The fingerprint of a work seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkSeedOrigin {
    /// How it was made: banger's count of the ways.
    pub format: u32,
    /// Digest of the image that its `/root` was taken from.
    pub made_from: String,
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

/// Body of `POST /v1/images/build-on`: builds an image on top of another one, in a VM of its own. Answers `202` with an
/// operation, whose subject is the image's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildOnRequest {
    /// Name; an image of that name is replaced for VMs to come.
    #[schema(value_type = String)]
    pub name: ImageName,
    /// What is done.
    pub source: BuildSource,
    /// Least size of the root file system, in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// Do every step again.
    #[serde(default)]
    pub no_cache: bool,
    /// When all steps are done, wait for `POST /v1/operations/{id}/go-on`, so that somebody can enter the builder.
    #[serde(default)]
    pub interactive: bool,
    /// When a step has failed, wait likewise before the builder is deleted.
    #[serde(default)]
    pub enter_on_failure: bool,
}

/// What an image is built of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BuildSource {
    /// An image, and what is added to it.
    Image {
        /// The image: a name, or a reference to one that is pulled when it is not there.
        from: String,
        /// Packages of its own distribution.
        #[serde(default)]
        packages: Vec<String>,
        /// `docker`, `tmux`, `mise`, `opencode`, `claude`, `pi`.
        #[serde(default)]
        tools: Vec<String>,
        /// A program that is run last.
        #[serde(default)]
        script: Option<BuildScript>,
    },
    /// A Dockerfile.
    Dockerfile {
        /// Its text.
        text: String,
        /// The folder that `COPY` copies from; absolute.
        context: String,
        /// Text of its `.dockerignore`.
        #[serde(default)]
        ignore: Option<String>,
        /// `--build-arg`s.
        #[serde(default)]
        args: BTreeMap<String, String>,
        /// The stage that is wanted; without one, the last.
        #[serde(default)]
        target: Option<String>,
    },
}

/// A program that is run in a builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildScript {
    /// Its name, for people.
    pub name: String,
    /// Its text.
    pub content: String,
}

/// Body of `POST /v1/operations/{id}/go-on`: what becomes of a build that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GoOnRequest {
    /// Whether the builder, as it is, becomes the image.
    pub keep: bool,
}

/// Body of `POST /v1/images/register`. Answers `202` with an operation, whose subject is the image's name. Paths are
/// absolute; the files of the root and the seed stay where they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterImageRequest {
    /// Name; an image of that name is updated.
    #[schema(value_type = String)]
    pub name: ImageName,
    /// Root file system (ext4).
    pub rootfs: String,
    /// Prepared `/root` (ext4).
    #[serde(default)]
    pub work_seed: Option<String>,
    /// A kernel file for it, which is imported.
    #[serde(default)]
    pub kernel: Option<String>,
    /// An initramfs for that kernel; banger's own files come after its.
    #[serde(default)]
    pub initrd: Option<String>,
    /// A folder of modules for that kernel.
    #[serde(default)]
    pub modules: Option<String>,
    /// A kernel of the catalog, instead.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub kernel_ref: Option<KernelName>,
    /// What is in it, `name version`.
    #[serde(default)]
    pub packages: Vec<String>,
}

/// Reply of `DELETE /v1/images/{name}` and `DELETE /v1/kernels/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// What is gone.
    pub name: String,
    /// Bytes that became free.
    pub freed: u64,
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
