//! Taps: one persistent device per VM, named after it, owned by its VMM's uid.

use std::fs::File;

use banger_core::{TapName, VmId};

use crate::error::{Context, OpError};
use crate::netlink::Netlink;
use crate::sys;

/// Makes the VM's tap and puts it on the bridge. Idempotent.
pub(crate) fn ensure(
    netlink: &mut Netlink,
    vm: &VmId,
    uid: u32,
    bridge: u32,
) -> Result<(), OpError> {
    let name = TapName::of(vm);
    let what = || format!("failed to make the tap {}", name.as_str());
    if netlink.link(name.as_str()).context(what)?.is_none() {
        let tap = sys::open_tap(name.as_str()).context(what)?;
        sys::set_tap_owner(&tap, uid).context(what)?;
        sys::set_tap_persistent(&tap, true).context(what)?;
    }
    let link = netlink.link(name.as_str()).context(what)?;
    let index = link.map(|link| link.index).unwrap_or_default();
    netlink.set_controller(index, bridge).context(what)?;
    netlink.set_up(index).context(what)
}

/// Opens the VM's tap for its VMM.
pub(crate) fn open(vm: &VmId) -> Result<File, OpError> {
    let name = TapName::of(vm);
    sys::open_tap(name.as_str()).context(|| format!("failed to open the tap {}", name.as_str()))
}

/// Removes the VM's tap. Absent is Ok.
pub(crate) fn remove(netlink: &mut Netlink, vm: &VmId) -> Result<(), OpError> {
    let name = TapName::of(vm);
    let what = || format!("failed to remove the tap {}", name.as_str());
    match netlink.link(name.as_str()).context(what)? {
        None => Ok(()),
        Some(link) => match netlink.delete_link(link.index) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            result => result.context(what),
        },
    }
}
