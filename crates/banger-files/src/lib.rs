//! Reading trees of files into a stream of records, and writing such a stream to disk: the same code
//! on the host and in the guest.
//!
//! The receiver trusts nothing that comes: every path is resolved below the folder that its caller
//! opened, and no symbolic link on the way is followed (openat2(2), `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`), neither one that was there nor one that the peer sent.

mod beneath;
mod destination;
mod receive;
mod send;

pub use beneath::remove_tree;
pub use destination::{Destination, DestinationError, source};
pub use receive::{Policy, ReceiveError, Receiver};
pub use send::{SendError, Sender};
