//! What the owner's side knows of VMMs: how instructions will run on this host, the command line that a
//! guest's kernel gets, and how Firecracker is spoken to.

mod accel;
mod boot_args;
pub mod firecracker;
mod qmp;
mod sys;
mod tsc;

pub use accel::{AccelProbe, probe_kvm};
pub use boot_args::{GuestClock, firecracker_boot_args, qemu_boot_args};
pub use qmp::{QmpError, resume_guest};
pub use tsc::measure_tsc_khz;
