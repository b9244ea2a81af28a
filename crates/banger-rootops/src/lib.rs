//! What root does for the owner: the bridge with its firewall, taps, and the VMM processes.
//!
//! [`Helper`] holds the ledger and answers one [`banger_root_proto::Request`] at a time. What is
//! decided (firewall text, VMM arguments, what a descriptor must be) is pure and tested without
//! root; what is done is netlink, ioctl, `nft` and `execve`. Nothing here takes a path or a command
//! line from the caller.

mod acl;
mod beside;
mod config;
mod device_mapper;
mod dm_packet;
mod drives;
mod firecracker;
mod firewall;
mod firewall_state;
mod helper;
mod launch;
mod ledger;
mod loop_device;
mod names;
mod neighbours;
mod netlink;
mod network;
mod nft;
mod pool;
mod process;
mod program;
mod qemu;
mod rebuild;
mod refuse;
mod root_disk;
mod run_dir;
#[cfg(test)]
mod snapshot_tests;
mod spawn;
mod sys;
mod systemd;
mod taps;
mod tend;
mod uids;
mod unit;
mod vmms;
mod watch;

pub use config::{Config, ConfigError};
pub use firecracker::firecracker_args;
pub use firewall::{Guest, Ruleset};
pub use helper::{Answer, Helper, OpenError};
pub use ledger::LedgerError;
pub use nft::generation as firewall_generation;
pub use qemu::{QemuTap, Role, qemu_args};
pub use uids::{CLAIMS_DIR, UID_BASE};
pub use unit::{PathError, UnitSpec};
pub use watch::FirewallWatch;
