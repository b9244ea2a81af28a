//! What goes wrong with the database, ready to be shown.

use std::path::Path;

use banger_core::ErrorCode;
use banger_store::{Fault, OpenStoreError, StoreError, UnreadableVm};

use crate::ports::Failure;

/// A failed query or change.
pub(crate) fn store_failure(what: &str, error: &StoreError) -> Failure {
    told(what, error.fault(), error)
}

/// A database that could not be opened. `kept` is where the disks of its VMs are.
#[must_use]
pub fn open_failure(error: &OpenStoreError, kept: &Path) -> Failure {
    let what = format!(
        "the VMs are not known (their disks in {} are left alone)",
        kept.display()
    );
    told(&what, error.fault(), error)
}

fn told(what: &str, fault: Fault, error: &(dyn std::error::Error + 'static)) -> Failure {
    let (code, hint) = match fault {
        // It has a hint of its own.
        Fault::Full => return Failure::because(ErrorCode::DiskFull, what, error),
        Fault::Other => return Failure::because(ErrorCode::Internal, what, error),
        Fault::Busy => (
            ErrorCode::DatabaseBusy,
            "another program has banger.db open and holds it: end that, and try again",
        ),
        Fault::NoAccess => (
            ErrorCode::DatabaseNoAccess,
            "banger.db and the folder that it is in must be the owner's to read and write; a file system that met an \
             error may have become read-only (`mount`)",
        ),
        Fault::Damaged => (
            ErrorCode::DatabaseDamaged,
            "put a copy of banger.db from before in its place while the daemon is stopped; `sqlite3 banger.db .recover` \
             reads what can still be read",
        ),
        Fault::Newer => (
            ErrorCode::VersionMismatch,
            "use the banger that was here before, or a newer one",
        ),
    };
    Failure::because(code, what, error).hint(hint)
}

/// A VM whose row cannot be read: what to do about it.
pub(crate) fn unreadable(vm: &UnreadableVm) -> Failure {
    let what = format!(
        "the VM `{}` stands in the database, but cannot be read",
        vm.name
    );
    let mut failure = Failure::new(ErrorCode::DatabaseDamaged, what);
    failure.causes.push(vm.why.clone());
    failure
        .hint("a copy of banger.db from before may have it whole; what is on the host of this VM is left alone")
        .hint("to give it up: `banger daemon stop`, then `sqlite3 banger.db` and DELETE its row from vms")
}
