//! Authoritative DNS for `.vm`, and for the reverse zone of the guests' subnet.
//!
//! [`Zone`] holds what is true now; [`Zone::publish`] swaps it as a whole. [`DnsServer`] serves a
//! zone over UDP and TCP, on an address of its own or on sockets that somebody with the right to
//! bind them has passed. What does not belong to the zone is refused; with a [`Forwarder`], guests
//! that the zone says have NAT get it from the host's [`Resolvers`].
//!
//! The codec is hickory-proto's. The two socket loops are banger's own, because guests reach one
//! of the listeners: a guest may neither use up the daemon's descriptors with idle TCP connections
//! nor make it allocate what a forged header announces, and hickory-server bounds neither.

mod answer;
mod forward;
mod resolvers;
mod server;
mod zone;

pub use forward::Forwarder;
pub use resolvers::Resolvers;
pub use server::{DnsServer, StartDnsError};
pub use zone::{Guest, Zone};

/// Where the host's own listener is by default.
pub const DEFAULT_PORT: u16 = 42069;
