//! A host for the engine's tests: a model that behaves like one, fails when it is told to, and can say
//! what is left on it.

mod failpoint;
mod host;
mod model;
mod ports;

pub use failpoint::{FailMode, Failpoint};
pub use host::FakeHost;
