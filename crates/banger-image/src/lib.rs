//! The image store: building images from recipes on the host, pulling others, and the disks that VMs get from them.

mod build;
mod built;
mod cache;
mod command;
mod delete;
mod digest;
mod disk;
mod elsewhere;
mod error;
mod file_error;
mod flatten;
mod grow;
mod incoming;
mod leak;
mod pull;
mod qcow2;
mod recipe;
mod root_disk;
mod sparse;
mod store;

pub use build::BuildWatch;
pub use built::{Built, FinishError, FinishRequest};
pub use cache::{Below, BuildCache, Cached};
pub use delete::DeleteError;
pub use disk::{DiskError, make_work_disk};
pub use elsewhere::{Elsewhere, Noted, PromoteStep, RegisterError, RegisterRequest};
pub use error::BuildError;
pub use file_error::FileError;
pub use grow::grow_work_disk;
pub use incoming::Incoming;
pub use leak::{HostTraces, leaks};
pub use pull::{Origin, PullRequest};
pub use recipe::Recipe;
pub use root_disk::{make_root_disk, mend_store, shares_blocks};
pub use store::{Image, ImageRecord, ImageStore};
