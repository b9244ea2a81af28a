//! The server with OpenSSH's own clients, which run it as their proxy: no guest, no port. Every wait has an end.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it cannot do"
)]

mod agent;
mod auth;
mod programs;
mod transfers;
mod world;
