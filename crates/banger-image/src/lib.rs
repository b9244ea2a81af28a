//! The image store: building images from recipes on the host, and the disks that VMs get from them.

mod build;
mod command;
mod digest;
mod disk;
mod error;
mod leak;
mod qcow2;
mod recipe;
mod sparse;
mod store;

pub use build::BuildWatch;
pub use disk::{DiskError, clone_root, copy_root, create_overlay, make_work_disk, shares_blocks};
pub use error::BuildError;
pub use leak::{HostTraces, leaks};
pub use recipe::Recipe;
pub use store::{Image, ImageRecord, ImageStore};
