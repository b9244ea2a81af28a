//! What the owner's side knows of VMMs: how instructions will run on this host, and the command line
//! that a guest's kernel gets.

mod accel;
mod boot_args;
mod firecracker;
mod sys;
mod tsc;

pub use accel::{AccelProbe, probe_kvm};
pub use boot_args::{GuestClock, boot_args};
pub use firecracker::{
    FirecrackerBinaryError, FirecrackerVersion, ParseVersionError, probe_firecracker,
};
pub use tsc::measure_tsc_khz;
