//! The steps that plans are made of.

use banger_core::RootStorage;

use crate::ports::OwnDisk;

/// One idempotent piece of work on one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Resolves the image, making it when it is the default and missing.
    Image,
    /// Resolves the kernel, likewise.
    Kernel,
    /// The VM's folder.
    Folder,
    /// The overlay for `/`.
    RootDisk,
    /// The work disk for `/root`.
    WorkDisk,
    /// Grows the work disk to its new size.
    GrowWorkDisk,
    /// Switches NAT.
    SetNat,
    /// Takes away what is left of an earlier VMM.
    ClearVmm,
    /// The tap and its rules.
    Tap,
    /// The config drive.
    Config,
    /// The VMM and its vsock backend.
    Launch,
    /// Keeps the console of the boot that has ended.
    CollectConsole,
    /// Ends the VMM and removes its directory.
    RemoveVmm,
    /// Removes the tap and its rules.
    RemoveTap,
    /// Removes the VM's folder.
    RemoveFolder,
}

impl Step {
    /// The resource's key in the journal, and the key of its stage.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Kernel => "kernel",
            Self::Folder => "folder",
            Self::RootDisk => "root_disk",
            Self::WorkDisk => "work_disk",
            Self::GrowWorkDisk => "grow_work_disk",
            Self::SetNat => "nat",
            Self::ClearVmm => "clear",
            Self::Tap => "network",
            Self::Config => "config",
            Self::Launch => "boot",
            Self::CollectConsole => "console",
            Self::RemoveVmm => "remove_vmm",
            Self::RemoveTap => "remove_network",
            Self::RemoveFolder => "remove_files",
        }
    }

    /// The disk that it makes, of a VM whose root disk is stored that way.
    pub(crate) const fn disk(self, storage: RootStorage) -> Option<OwnDisk> {
        match self {
            Self::RootDisk => Some(OwnDisk::Root(storage)),
            Self::WorkDisk => Some(OwnDisk::Work),
            _ => None,
        }
    }

    /// What people read while it goes on.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Kernel => "kernel",
            Self::Folder => "folder",
            Self::RootDisk => "root disk",
            Self::WorkDisk => "work disk",
            Self::GrowWorkDisk => "growing the work disk",
            Self::SetNat => "switching NAT",
            Self::ClearVmm => "clearing the last run",
            Self::Tap => "network",
            Self::Config => "identity",
            Self::Launch => "starting the VMM",
            Self::CollectConsole => "keeping the console log",
            Self::RemoveVmm => "ending the VMM",
            Self::RemoveTap => "removing the network",
            Self::RemoveFolder => "removing the disks",
        }
    }
}
