//! Firecracker.

mod version;

pub use version::{
    FirecrackerBinaryError, FirecrackerVersion, ParseVersionError, probe_firecracker,
};
