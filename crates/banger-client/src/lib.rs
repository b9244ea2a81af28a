//! Client of the owner API, over the owner's Unix socket.

mod client;
mod guest_fd;

pub use client::{Client, ClientError, EventStream};
