//! The verbs: each checks its whole request before it changes anything, notes in the ledger what it
//! is about to make, and makes it.

use std::os::fd::{AsFd, OwnedFd};

use banger_core::VmId;
use banger_root_proto::{
    LaunchSpec, OwnedFacts, OwnedTap, OwnedVmm, PROTOCOL, RefusalCode, Reply, Request, VmmSignal,
};
use rustix::process::Signal;

use crate::config::HelperConfig;
use crate::error::{Context, OpError};
use crate::firewall::{self, Guest};
use crate::ledger::{Entry, Ledger, Tap};
use crate::netlink::Netlink;
use crate::rundir::{self, Users};
use crate::{dns, launch, network, process, sys, tap};

/// A reply and the descriptors that go with it.
pub type Answer = (Reply, Vec<OwnedFd>);

/// The helper's state.
#[derive(Debug)]
pub struct Helper {
    config: HelperConfig,
    ledger: Ledger,
    netlink: Netlink,
    /// Index of the bridge, once it and the firewall stand.
    bridge: Option<u32>,
}

impl Helper {
    /// Takes up the ledger of an earlier helper of this boot.
    ///
    /// # Errors
    /// A damaged ledger, or no netlink socket.
    pub fn open(config: HelperConfig) -> Result<Self, OpError> {
        sys::ignore_children();
        let path = config.runtime_dir.join("ledger.json");
        let ledger = Ledger::load(&path).context(|| "failed to read the ledger".to_owned())?;
        let netlink = Netlink::open().context(|| "failed to open a netlink socket".to_owned())?;
        Ok(Self {
            config,
            ledger,
            netlink,
            bridge: None,
        })
    }

    /// Does what a request asks for.
    pub fn handle(&mut self, request: Request, fds: Vec<OwnedFd>) -> Answer {
        match self.dispatch(request, fds) {
            Ok(answer) => answer,
            Err(error) => (Reply::Refused(error.to_refusal()), vec![]),
        }
    }

    fn dispatch(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<Answer, OpError> {
        let done = |()| (Reply::Done {}, vec![]);
        match request {
            Request::Hello { protocol } => self.hello(protocol),
            Request::EnsureNetwork {} => self.ensure_network().map(done),
            Request::RemoveNetwork {} => self.remove_network().map(done),
            Request::EnsureTap { vm, address, nat } => {
                self.ensure_tap(&vm, Tap { address, nat }).map(done)
            }
            Request::RemoveTap { vm } => self.remove_tap(&vm).map(done),
            Request::SetNat { vm, nat } => self.set_nat(&vm, nat).map(done),
            Request::LaunchVmm { vm, spec } => self.launch(&vm, &spec, &fds),
            Request::ProbeVmm { vm } => Ok(self.probe(&vm)),
            Request::SignalVmm { vm, signal } => self.signal(&vm, signal).map(done),
            Request::RemoveVmm { vm } => self.remove_vmm(&vm, fds.first()).map(done),
            Request::List {} => self.list(),
            Request::OpenGuestDns {} => self.open_guest_dns(),
        }
    }

    fn hello(&self, protocol: u32) -> Result<Answer, OpError> {
        if protocol != PROTOCOL {
            let message =
                format!("protocol {protocol} is not the helper's ({PROTOCOL}): restart both");
            return Err(OpError::refused(RefusalCode::Protocol, message));
        }
        let reply = Reply::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            bridge: self.config.bridge.clone(),
            bridge_ip: self.config.bridge_ip,
            prefix: self.config.prefix,
        };
        Ok((reply, vec![]))
    }

    fn ensure_network(&mut self) -> Result<(), OpError> {
        let there = self
            .netlink
            .link(&self.config.bridge)
            .context(|| "failed to list links".to_owned())?;
        if self.bridge.is_some() && self.bridge == there.map(|link| link.index) {
            return Ok(());
        }
        let index = network::ensure_bridge(&self.config, &mut self.netlink)?;
        self.apply_firewall()?;
        self.bridge = Some(index);
        Ok(())
    }

    fn remove_network(&mut self) -> Result<(), OpError> {
        if self.ledger.vms().values().any(|entry| entry.tap.is_some()) {
            return Err(OpError::refused(
                RefusalCode::Busy,
                "a VM is still on the bridge",
            ));
        }
        self.bridge = None;
        network::remove_bridge(&self.config, &mut self.netlink)?;
        firewall::apply(&firewall::removal(&self.config.bridge))
    }

    fn apply_firewall(&self) -> Result<(), OpError> {
        let guests: Vec<Guest> = self
            .ledger
            .vms()
            .iter()
            .filter_map(|(vm, entry)| {
                let tap = entry.tap?;
                Some(Guest {
                    vm: vm.clone(),
                    address: tap.address,
                    nat: tap.nat,
                })
            })
            .collect();
        firewall::apply(&firewall::render(&self.config, &guests))
    }

    fn ensure_tap(&mut self, vm: &VmId, wanted: Tap) -> Result<(), OpError> {
        if !self.config.is_guest_address(wanted.address) {
            let message = format!(
                "{} is no guest address of {}",
                wanted.address,
                self.config.subnet()
            );
            return Err(OpError::refused(RefusalCode::Invalid, message));
        }
        let taken = |(other, entry): (&VmId, &Entry)| {
            other != vm && entry.tap.is_some_and(|tap| tap.address == wanted.address)
        };
        if self.ledger.vms().iter().any(taken) {
            let message = format!("{} belongs to another VM", wanted.address);
            return Err(OpError::refused(RefusalCode::Conflict, message));
        }
        self.ensure_network()?;
        let known = self.ledger.get(vm).and_then(|entry| entry.tap);
        let uid = self.ledger.update(vm, |entry| entry.tap = Some(wanted))?;
        // The rules stand before the tap can carry a packet.
        if known != Some(wanted) {
            self.apply_firewall()?;
        }
        tap::ensure(&mut self.netlink, vm, uid, self.bridge.unwrap_or_default())
    }

    fn remove_tap(&mut self, vm: &VmId) -> Result<(), OpError> {
        tap::remove(&mut self.netlink, vm)?;
        if self.ledger.get(vm).is_some_and(|entry| entry.tap.is_some()) {
            self.ledger.update(vm, |entry| entry.tap = None)?;
            self.apply_firewall()?;
        }
        Ok(())
    }

    fn set_nat(&mut self, vm: &VmId, nat: bool) -> Result<(), OpError> {
        match self.ledger.get(vm).and_then(|entry| entry.tap) {
            None => Err(OpError::refused(RefusalCode::Unknown, "the VM has no tap")),
            Some(tap) => {
                self.ledger
                    .update(vm, |entry| entry.tap = Some(Tap { nat, ..tap }))?;
                self.apply_firewall()
            }
        }
    }

    fn launch(&mut self, vm: &VmId, spec: &LaunchSpec, fds: &[OwnedFd]) -> Result<Answer, OpError> {
        spec.check()
            .map_err(|error| OpError::refused(RefusalCode::Invalid, error.to_string()))?;
        if spec.mac.is_some() {
            let tap = self.ledger.get(vm).and_then(|entry| entry.tap);
            if tap.is_none() || spec.mac != Some(vm.mac()) {
                return Err(OpError::refused(
                    RefusalCode::Invalid,
                    "the VM has no tap of that MAC",
                ));
            }
        }
        let (Some((folder, files)), wanted) = (fds.split_first(), 3 + spec.drive_fds()) else {
            return Err(OpError::refused(
                RefusalCode::Descriptor,
                "the VM's folder is missing",
            ));
        };
        if fds.len() != wanted {
            let message = format!("{} descriptors came instead of {wanted}", fds.len());
            return Err(OpError::refused(RefusalCode::Descriptor, message));
        }
        rundir::check_folder(folder.as_fd(), self.config.owner_uid)?;
        if self.ledger.get(vm).is_some_and(is_alive) {
            return Err(OpError::refused(
                RefusalCode::Busy,
                "the VM's VMM runs already",
            ));
        }
        let uid = self.ledger.update(vm, |entry| entry.run_dir = true)?;
        self.end_all(uid)?;
        let users = Users::new(&self.config, uid);
        rundir::remove(folder.as_fd(), users)?;
        match self.start(vm, spec, folder, files, users) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                // The first failure is the one to tell; what is left is found by the ledger.
                let _ = self.remove_vmm(vm, Some(folder));
                Err(error)
            }
        }
    }

    fn start(
        &mut self,
        vm: &VmId,
        spec: &LaunchSpec,
        folder: &OwnedFd,
        files: &[OwnedFd],
        users: Users,
    ) -> Result<Answer, OpError> {
        let run = launch::prepare(folder, spec, files, users)?;
        let backend = launch::start_backend(&self.config, &run, users)?;
        let vmm = launch::start_vmm(&self.config, &run, vm, spec, users)?;
        self.ledger.update(vm, |entry| {
            entry.vmm = Some(vmm.clone());
            entry.backend = Some(backend.clone());
        })?;
        let handles = [process::open(&vmm), process::open(&backend)];
        if let [Some(vmm_handle), Some(backend_handle)] = handles {
            Ok((
                Reply::Launched { vmm, backend },
                vec![vmm_handle, backend_handle],
            ))
        } else {
            Err(OpError::refused(
                RefusalCode::System,
                "the VMM ended at once; see vmm.log and backend.log",
            ))
        }
    }

    fn probe(&self, vm: &VmId) -> Answer {
        let entry = self.ledger.get(vm);
        let (vmm, vmm_handle) = process::probe(entry.and_then(|entry| entry.vmm.as_ref()));
        let (backend, backend_handle) =
            process::probe(entry.and_then(|entry| entry.backend.as_ref()));
        let handles = [vmm_handle, backend_handle].into_iter().flatten().collect();
        (Reply::Probed { vmm, backend }, handles)
    }

    fn signal(&self, vm: &VmId, signal: VmmSignal) -> Result<(), OpError> {
        let signal = match signal {
            VmmSignal::Term => Signal::TERM,
            VmmSignal::Kill => Signal::KILL,
            VmmSignal::Stop => Signal::STOP,
            VmmSignal::Cont => Signal::CONT,
        };
        let identity = self.ledger.get(vm).and_then(|entry| entry.vmm.as_ref());
        match identity.and_then(process::open) {
            Some(handle) => {
                process::signal(&handle, signal).context(|| "failed to signal the VMM".to_owned())
            }
            None => Ok(()),
        }
    }

    fn remove_vmm(&mut self, vm: &VmId, folder: Option<&OwnedFd>) -> Result<(), OpError> {
        if let Some(folder) = folder {
            rundir::check_folder(folder.as_fd(), self.config.owner_uid)?;
        }
        let Some(entry) = self.ledger.get(vm) else {
            return Ok(());
        };
        let uid = HelperConfig::VMM_UID_BASE + entry.slot;
        self.end_all(uid)?;
        if let Some(folder) = folder {
            rundir::remove(folder.as_fd(), Users::new(&self.config, uid))?;
        }
        self.ledger.update(vm, |entry| {
            entry.run_dir = false;
            entry.vmm = None;
            entry.backend = None;
        })?;
        Ok(())
    }

    /// Ends everything that runs under a VMM's uid, noted in the ledger or not.
    fn end_all(&self, uid: u32) -> Result<(), OpError> {
        let what = || "failed to end the VM's processes".to_owned();
        for handle in process::of_uid(uid).context(what)? {
            process::end(&handle).context(what)?;
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Answer, OpError> {
        let links = self
            .netlink
            .links()
            .context(|| "failed to list links".to_owned())?;
        let mut facts = OwnedFacts {
            network: links.iter().any(|link| link.name == self.config.bridge),
            ..OwnedFacts::default()
        };
        for (vm, entry) in self.ledger.vms() {
            if let Some(tap) = entry.tap {
                facts.taps.push(OwnedTap {
                    vm: vm.clone(),
                    address: tap.address,
                    nat: tap.nat,
                });
            }
            if entry.run_dir {
                let (vmm, _) = process::probe(entry.vmm.as_ref());
                let (backend, _) = process::probe(entry.backend.as_ref());
                facts.vmms.push(OwnedVmm {
                    vm: vm.clone(),
                    vmm,
                    backend,
                });
            }
        }
        Ok((Reply::Owned(facts), vec![]))
    }

    fn open_guest_dns(&mut self) -> Result<Answer, OpError> {
        self.ensure_network()?;
        let sockets = dns::open(self.config.bridge_ip)
            .context(|| format!("failed to listen for names on {}", self.config.bridge_ip))?;
        Ok((Reply::GuestDns {}, sockets))
    }
}

fn is_alive(entry: &Entry) -> bool {
    [&entry.vmm, &entry.backend]
        .into_iter()
        .flatten()
        .any(|identity| process::open(identity).is_some())
}
