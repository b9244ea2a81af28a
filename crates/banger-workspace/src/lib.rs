//! A git checkout of the host's in a guest, and back.
//!
//! The host's git answers what a repository holds (ADR 14); the guest needs none: its `.git` is made here
//! and sent as files. What was sent stands in the guest beside it, so that a later call sends what has
//! changed since, and sees what the guest has changed itself: that is never overwritten unasked.

mod checkout;
mod fresh_disk;
mod git;
mod incoming;
mod manifest;
mod metadata;
mod plan;
mod plant;
mod prepare;
mod pull;
mod staging;
mod transfer;
mod unpulled;

pub use checkout::{CheckoutError, Collected, Mode, Options};
pub use git::{Git, GitError, says_disk_full};
pub use manifest::{Head, Manifest};
pub use plan::{Lost, LostReason, Step, plan};
pub use plant::{PlantError, Spot, plant};
pub use prepare::{GuestRepo, How, PrepareError, Prepared, SentFile, prepare};
pub use pull::{
    GuestRefs, PACK, PullError, Pulled, SNAPSHOT, fetch, repository, submodules, wanted,
};
pub use staging::{StagedFolder, Staging};
pub use unpulled::{NOTE_PULLED, Told, UNPULLED, Unpulled, WORKSPACES, home, told, workspaces};
