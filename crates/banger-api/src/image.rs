//! Images.

use banger_core::ImageName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Name.
    pub name: String,
    /// SHA-256 of its root file system.
    pub digest: String,
    /// `built` or `registered`.
    pub origin: String,
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
