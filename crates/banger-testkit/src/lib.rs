//! A host for the engine's tests: a model that behaves like one, fails when it is told to, and can say
//! what is left on it. And what tests with real files need of a real one: small disks, ordinary users.

mod failpoint;
mod host;
mod model;
mod ports;
mod small_disk;
mod user;

pub use failpoint::{FailMode, Failpoint};
pub use host::FakeHost;
pub use model::Hang;
pub use small_disk::SmallDisk;
pub use user::OrdinaryUser;
