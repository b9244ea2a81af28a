//! The configured catalog.

use banger_core::{ImageName, KernelName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Reply of `GET /v1/catalog`: what there is for this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatalogView {
    /// Where the catalog is.
    pub location: String,
    /// When it was made.
    pub created_at: String,
    /// By name.
    pub images: Vec<AvailableImage>,
    /// By name.
    pub kernels: Vec<AvailableKernel>,
}

/// How what a catalog has compares with what is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// There is none of that name here.
    Absent,
    /// The same is here.
    Present,
    /// Another one of that name is here.
    Other,
}

/// An image of a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AvailableImage {
    /// Name.
    pub name: String,
    /// By which images are told apart.
    pub digest: String,
    /// When it was made.
    pub created_at: String,
    /// Bytes to fetch, without its kernel.
    pub download: u64,
    /// Apparent size of the root file system in bytes.
    pub size: u64,
    /// The kernel it asks for.
    pub kernel: Option<String>,
    /// What is in it.
    pub contents: Vec<String>,
    /// Whether it is here.
    pub state: Availability,
}

/// A kernel of a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AvailableKernel {
    /// Name.
    pub name: String,
    /// Its `uname -r`.
    pub release: String,
    /// SHA-256 of its `vmlinux`.
    pub digest: String,
    /// Where it comes from, for people.
    pub source: String,
    /// When it was imported by its maker.
    pub created_at: String,
    /// Bytes to fetch.
    pub download: u64,
    /// Whether it is here.
    pub state: Availability,
}

/// Body of `POST /v1/catalog/images/{name}`. Answers `202` with an operation, whose subject is the image's name here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullFromCatalogRequest {
    /// Its name in the store; without it, the catalog's, under which it replaces only what was built or came from a
    /// catalog.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub name: Option<ImageName>,
    /// The kernel that it shall be booted with, instead of the catalog's.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub kernel: Option<KernelName>,
}
