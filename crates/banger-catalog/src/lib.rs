//! Catalogs of images and kernels: a folder or a server with a signed index and compressed files, for those who take
//! from one and those who make one. See `docs/adr/0017-catalogs.md`.

mod build;
mod catalog;
mod error;
mod index;
mod location;
mod memory;
mod publish;
mod signature;
mod squeeze;

pub use build::{Draft, ImageFiles, KernelFiles};
pub use catalog::{Catalog, Settings};
pub use error::{BlobError, CatalogError, MalformedError};
pub use index::{CatalogImage, CatalogKernel, Index, Packed, Provenance};
pub use location::{Location, ParseLocationError};
pub use publish::{Published, SigningKey, publish};
pub use signature::{ParseKeyError, TrustedKey};

pub use banger_oci::{ImageConfig, Watch};

/// The index.
pub const INDEX: &str = "index.json";
/// Its signature.
pub const SIGNATURE: &str = "index.json.minisig";
/// The folder of compressed files.
pub const BLOBS: &str = "blobs";
