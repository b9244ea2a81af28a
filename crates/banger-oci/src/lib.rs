//! OCI images: from a registry, a layout or an archive to the file systems that a VM boots from.
//!
//! Layers are read once, in order, each file's content going straight to its place in the ext4 file system,
//! while [`merge`] decides what remains of it; see `docs/adr/0013-oci-images-to-ext4.md`.

mod auth;
mod blobs;
mod challenge;
mod decompress;
mod download;
mod error;
mod facts;
mod fetch;
mod flatten;
mod hash;
mod index;
mod layer;
mod local;
mod manifest;
mod member;
pub mod merge;
mod mirrors;
mod part;
mod path;
mod pull;
mod registry;
mod remote;
mod reuse;
mod seed;
pub mod tar;
mod watch;

pub use auth::AuthFiles;
pub use blobs::{BlobStore, InUse};
pub use download::Patience;
pub use error::{MalformedError, PullError, RegistryError};
pub use facts::facts;
pub use fetch::Fetching;
pub use flatten::{FlattenError, FlattenOptions, Flattened, Outputs, flatten, seed_options};
pub use layer::{LayerBlob, LayerError};
pub use manifest::{Descriptor, ImageConfig};
pub use mirrors::Registries;
pub use path::Shown;
pub use pull::{PullOptions, Resolved};
pub use remote::Remote;
pub use reuse::Donor;
pub use watch::{Unwatched, Watch};
