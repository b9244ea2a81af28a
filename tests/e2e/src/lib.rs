//! Tests with real guests. The crate is the harness; the tests are under `tests/`.
//!
//! `scripts/e2e-tests` makes kernel and images first, outside, and then runs the tests inside a
//! network namespace of their own: guests have private addresses, and nothing may leave the machine.

mod aftermath;
mod banger;
mod beyond;
mod boots;
mod chance;
mod client;
mod elsewhere;
mod git;
mod links;
mod processes;
mod random;
mod sandbox;
mod soak;
mod storm;
mod terminal;
mod wait;

pub use banger::{Banger, Finished, SMALL, Vm};
pub use beyond::Beyond;
pub use boots::{Boots, boots};
pub use client::Client;
pub use elsewhere::Elsewhere;
pub use git::git;
pub use links::links;
pub use random::{Random, random};
pub use sandbox::{assert_powers_off, assert_sandbox};
pub use soak::{Soak, soak};
pub use storm::{Storm, storm};
pub use terminal::Terminal;
pub use wait::until;
