//! The engine's ports over the real things: a few lines each.

mod blocking;
mod clock;
mod console;
mod drives;
mod firecracker;
mod guests;
mod helper;
mod images;
mod kernels;
mod names;
mod network;
mod planted;
mod readable;
mod space;
mod writes;

pub(crate) use blocking::blocking;
pub(crate) use clock::HostClock;
pub(crate) use console::open as open_console;
pub(crate) use drives::{FILE_SYNC_WARNINGS, VmDrives};
pub(crate) use guests::AgentGuests;
pub(crate) use helper::{BootArgs, HelperLink};
pub(crate) use images::{LocalImages, Watch, build_failure, unknown_image};
pub(crate) use kernels::{LocalKernels, import_failure, unknown_kernel};
pub(crate) use names::ZoneNames;
pub(crate) use network::NetworkNeeds;
pub(crate) use readable::watched;
pub(crate) use space::{DiskSpace, is_stopped};
