//! Taps: one per VM, pinned to one address.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use banger_core::{TapName, VmId};
use banger_root_proto::{OwnedTap, Refusal, RefusalCode};
use rustix::io::Errno;

use crate::helper::Helper;
use crate::ledger::TapEntry;
use crate::netlink::{Link, Netlink};
use crate::network::{find, taps_among};
use crate::refuse::{OrRefuse as _, because, refuse};
use crate::sys;

impl Helper {
    /// The VM's tap on the bridge, behind its rules.
    pub(crate) fn ensure_tap(
        &mut self,
        vm: &VmId,
        address: Ipv4Addr,
        nat: bool,
    ) -> Result<(), Refusal> {
        let refusal = self.check_address(vm, address).err();
        let by_others = |code| matches!(code, RefusalCode::Conflict | RefusalCode::Quota);
        if let Some(refusal) = refusal {
            if !by_others(refusal.code) {
                return Err(refusal);
            }
            self.forget_lost_taps()?;
            self.check_address(vm, address)?;
        }
        let mut netlink = self.netlink()?;
        let bridge = find(&mut netlink, &self.config.bridge)?
            .filter(|_| self.ledger.network)
            .ok_or_else(|| refuse(RefusalCode::Unknown, "the bridge does not exist"))?;
        let name = TapName::of(vm);
        let mark = self.config.mark();
        let existing = find(&mut netlink, name.as_str())?;
        if let Some(link) = &existing {
            let announced = link.alias.is_none() && self.ledger.taps.contains_key(vm);
            if link.alias.as_deref() != Some(&mark) && !announced {
                let message = format!("there is an interface `{}` that is not ours", link.name);
                return Err(refuse(RefusalCode::Conflict, message));
            }
        }
        let entry = TapEntry { address, nat };
        let before = self.ledger.taps.insert(vm.clone(), entry);
        if before != Some(entry) {
            self.save()?;
        }
        // The rules stand before the tap does.
        self.apply_firewall(before.is_none().then_some(vm))?;
        let failed = || format!("failed to make the tap `{}`", name.as_str());
        let link = match existing {
            Some(link) => link,
            None => match self.take_from_pool(&mut netlink, name.as_str()) {
                Some(link) => link,
                None => make_tap(&mut netlink, name.as_str())?,
            },
        };
        if !link.up || link.master != Some(bridge.index) {
            netlink
                .set_up(link.index, &mark, Some(bridge.index))
                .or_refuse(failed)?;
        }
        Ok(())
    }

    /// Removes the tap, then its rules. Absent is fine.
    pub(crate) fn remove_tap(&mut self, vm: &VmId) -> Result<(), Refusal> {
        let name = TapName::of(vm);
        let mut netlink = self.netlink()?;
        if let Some(link) = find(&mut netlink, name.as_str())? {
            let announced = link.alias.is_none() && self.ledger.taps.contains_key(vm);
            if link.alias.as_deref() == Some(&self.config.mark()) || announced {
                netlink
                    .remove(link.index)
                    .or_refuse(|| format!("failed to remove the tap `{}`", name.as_str()))?;
            }
        }
        if self.ledger.taps.remove(vm).is_some() {
            self.save()?;
            self.apply_firewall(None)?;
        }
        Ok(())
    }

    /// Switches NAT.
    pub(crate) fn set_nat(&mut self, vm: &VmId, nat: bool) -> Result<(), Refusal> {
        let Some(entry) = self.ledger.taps.get_mut(vm) else {
            return Err(refuse(
                RefusalCode::Unknown,
                format!("the VM {vm} has no tap"),
            ));
        };
        if entry.nat != nat {
            entry.nat = nat;
            self.save()?;
        }
        self.apply_firewall(None).map(drop)
    }

    /// A descriptor of the VM's tap for its VMM of user `uid`.
    pub(crate) fn attach_tap(&self, vm: &VmId, uid: u32) -> Result<OwnedFd, Refusal> {
        let name = TapName::of(vm);
        let tap = open_tap(name.as_str())?;
        sys::set_tap_owner(&tap, uid)
            .or_refuse(|| format!("failed to give the tap `{}` to the VMM", name.as_str()))?;
        Ok(tap)
    }

    /// The taps that the ledger and the kernel know. One that only the kernel knows is left by a
    /// lost ledger, and has no address.
    pub(crate) fn list_taps(&self, links: &[Link]) -> Vec<OwnedTap> {
        let mut taps = vec![];
        for vm in taps_among(links, &self.config.mark()) {
            let entry = self.ledger.taps.get(&vm);
            taps.push(OwnedTap {
                address: entry.map_or(Ipv4Addr::UNSPECIFIED, |entry| entry.address),
                nat: entry.is_some_and(|entry| entry.nat),
                vm,
            });
        }
        taps
    }

    /// An entry whose tap is gone (somebody removed it, or its network namespace) holds no address and no
    /// place. The rules follow with the next change.
    pub(crate) fn forget_lost_taps(&mut self) -> Result<(), Refusal> {
        let links = self
            .netlink()?
            .links()
            .or_refuse(|| "failed to list network interfaces".into())?;
        let exists = |vm: &VmId| {
            let name = TapName::of(vm);
            links.iter().any(|link| link.name == name.as_str())
        };
        self.ledger.taps.retain(|vm, _| exists(vm));
        Ok(())
    }

    fn check_address(&self, vm: &VmId, address: Ipv4Addr) -> Result<(), Refusal> {
        if !self.config.admits_guest(address) {
            let (ip, prefix) = (self.config.bridge_ip, self.config.prefix);
            let message =
                format!("{address} is not a guest's address in the subnet of {ip}/{prefix}");
            return Err(refuse(RefusalCode::Invalid, message));
        }
        let mut others = self.ledger.taps.iter().filter(|(other, _)| *other != vm);
        if let Some((other, _)) = others.find(|(_, tap)| tap.address == address) {
            let message = format!("{address} is the address of the VM {other}");
            return Err(refuse(RefusalCode::Conflict, message));
        }
        let known = self.ledger.taps.contains_key(vm);
        if !known && self.ledger.taps.len() >= self.config.max_vms {
            let message = format!("the quota of {} taps is reached", self.config.max_vms);
            return Err(refuse(RefusalCode::Quota, message));
        }
        Ok(())
    }
}

/// A tap that nobody but root may attach to, until its VMM is launched. Not switched on.
pub(crate) fn make_tap(netlink: &mut Netlink, name: &str) -> Result<Link, Refusal> {
    let failed = || format!("failed to make the tap `{name}`");
    let tap = open_tap(name)?;
    sys::keep_tap(&tap, 0).or_refuse(failed)?;
    find(netlink, name)?.ok_or_else(|| refuse(RefusalCode::System, failed()))
}

fn open_tap(name: &str) -> Result<OwnedFd, Refusal> {
    sys::open_tap(name).map_err(|errno| {
        let (code, message) = match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => (
                RefusalCode::HostNotReady,
                "this machine has no /dev/net/tun".to_owned(),
            ),
            Errno::BUSY => (RefusalCode::Busy, format!("the tap `{name}` is in use")),
            _ => (
                RefusalCode::System,
                format!("failed to open the tap `{name}`"),
            ),
        };
        because(code, message, &errno)
    })
}
