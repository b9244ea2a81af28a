//! What the owner's daemon may ask for.

use std::net::Ipv4Addr;

use banger_core::VmId;
use serde::{Deserialize, Serialize};

use crate::LaunchSpec;

/// The closed list of verbs. `Ensure…` and `Remove…` are idempotent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// First on every connection.
    Hello {
        /// Must equal [`crate::PROTOCOL`].
        protocol: u32,
    },
    /// Bridge with carrier, its address, and the firewall table.
    EnsureNetwork {},
    /// Takes down what `EnsureNetwork` made. Refused while a tap exists.
    RemoveNetwork {},
    /// Puts right what others have changed of the network (nothing when there is none), tells the
    /// host's resolver where `.vm` is answered, and keeps that many taps ready.
    TendNetwork {
        /// The port on 127.0.0.1 that answers for `.vm`. None: the resolver is left alone.
        names: Option<u16>,
        /// How many taps to keep ready, at most [`crate::MAX_TAP_POOL`].
        pool: u8,
    },
    /// The network as it is, and what of others stands in its way.
    InspectNetwork {},
    /// The VM's tap on the bridge, its address and MAC pinned, with or without NAT.
    EnsureTap {
        /// Whose tap.
        vm: VmId,
        /// The guest's address, inside the helper's own subnet.
        address: Ipv4Addr,
        /// Whether the guest reaches what is beyond the bridge.
        nat: bool,
    },
    /// Removes the VM's tap and its rules.
    RemoveTap {
        /// Whose tap.
        vm: VmId,
    },
    /// Switches NAT for a VM whose tap exists.
    SetNat {
        /// Whose tap.
        vm: VmId,
        /// The new state.
        nat: bool,
    },
    /// Starts the VM's VMM, and the vsock backend of one that needs it. With the request come, in
    /// this order: the VM's own folder (a directory of the owner's; the helper makes `run` in it),
    /// the kernel, the initramfs, and one file for each drive of `spec.drives`; a root drive that is
    /// `qcow2` or a `snapshot` is followed by its read-only base image. Regular files, opened by the
    /// owner.
    LaunchVmm {
        /// Which VM.
        vm: VmId,
        /// How to run it.
        spec: LaunchSpec,
    },
    /// Whether the VM's processes still are what was launched.
    ProbeVmm {
        /// Which VM.
        vm: VmId,
    },
    /// Sends a signal to the VM's VMM.
    SignalVmm {
        /// Which VM.
        vm: VmId,
        /// Which signal.
        signal: VmmSignal,
    },
    /// Ends the VM's processes if they live, and removes `run` from the VM's folder, which comes
    /// as the only descriptor (none when the folder is gone).
    RemoveVmm {
        /// Which VM.
        vm: VmId,
    },
    /// Everything of the owner's that the helper made and that exists.
    List {},
    /// A UDP and a TCP socket bound to port 53 of the bridge address.
    OpenGuestDns {},
}

impl Request {
    /// The verb, for the log.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::EnsureNetwork {} => "ensure_network",
            Self::RemoveNetwork {} => "remove_network",
            Self::TendNetwork { .. } => "tend_network",
            Self::InspectNetwork {} => "inspect_network",
            Self::EnsureTap { .. } => "ensure_tap",
            Self::RemoveTap { .. } => "remove_tap",
            Self::SetNat { .. } => "set_nat",
            Self::LaunchVmm { .. } => "launch_vmm",
            Self::ProbeVmm { .. } => "probe_vmm",
            Self::SignalVmm { .. } => "signal_vmm",
            Self::RemoveVmm { .. } => "remove_vmm",
            Self::List {} => "list",
            Self::OpenGuestDns {} => "open_guest_dns",
        }
    }

    /// The VM that the request is about.
    #[must_use]
    pub const fn vm(&self) -> Option<&VmId> {
        match self {
            Self::EnsureTap { vm, .. }
            | Self::RemoveTap { vm }
            | Self::SetNat { vm, .. }
            | Self::LaunchVmm { vm, .. }
            | Self::ProbeVmm { vm }
            | Self::SignalVmm { vm, .. }
            | Self::RemoveVmm { vm } => Some(vm),
            Self::Hello { .. }
            | Self::EnsureNetwork {}
            | Self::RemoveNetwork {}
            | Self::TendNetwork { .. }
            | Self::InspectNetwork {}
            | Self::List {}
            | Self::OpenGuestDns {} => None,
        }
    }
}

/// The signals that a VMM may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmmSignal {
    /// `SIGTERM`.
    Term,
    /// `SIGKILL`.
    Kill,
    /// `SIGSTOP`.
    Stop,
    /// `SIGCONT`.
    Cont,
}
