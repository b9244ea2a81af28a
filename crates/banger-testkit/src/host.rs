//! The host's handle for tests.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_core::{ByteSize, ErrorCode, VmId, VmSpec};
use banger_engine::Ports;
use banger_engine::ports::{Failure, Farewell, OwnDisk};
use tokio::sync::{Notify, watch};

use crate::failpoint::{FailMode, Failpoint};
use crate::model::{Hang, Model, Vmm};

/// A modelled host. Clones are the same one; it survives the engine.
#[derive(Debug, Clone, Default)]
pub struct FakeHost {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    model: Mutex<Model>,
    calls: Mutex<(usize, Option<Failpoint>)>,
    crashed: Notify,
    held: Notify,
    released: Notify,
    changes: watch::Sender<u64>,
    chance: AtomicU64,
    boot: AtomicU64,
    /// What the wall clock shows.
    time: Mutex<String>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            model: Mutex::default(),
            calls: Mutex::default(),
            crashed: Notify::new(),
            held: Notify::new(),
            released: Notify::new(),
            changes: watch::channel(0).0,
            chance: AtomicU64::new(1),
            boot: AtomicU64::new(1),
            time: Mutex::new("2026-01-01T00:00:00Z".to_owned()),
        }
    }
}

/// Somebody waits for the end of a VMM.
#[derive(Debug)]
pub(crate) struct Watch {
    host: FakeHost,
    vm: VmId,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(count) = self.host.model().watches.get_mut(&self.vm) {
            *count -= 1;
        }
    }
}

impl FakeHost {
    /// The engine's ports on this host.
    #[must_use]
    pub fn ports(&self) -> Ports {
        let host = Arc::new(self.clone());
        Ports {
            images: host.clone(),
            kernels: host.clone(),
            drives: host.clone(),
            helper: host.clone(),
            guests: host.clone(),
            names: host.clone(),
            space: host.clone(),
            clock: host,
        }
    }

    /// Sets or clears the call that fails; counting begins anew.
    pub fn set_failpoint(&self, failpoint: Option<Failpoint>) {
        *self
            .inner
            .calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = (0, failpoint);
    }

    /// How many calls changed something since the failpoint was set.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.inner
            .calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Resolves when a crash was reached: the engine must be dropped then.
    pub async fn crashed(&self) {
        self.inner.crashed.notified().await;
    }

    /// Resolves when a call is held.
    pub async fn held(&self) {
        self.inner.held.notified().await;
    }

    /// Lets the call that is held, or will be, go on.
    pub fn release(&self) {
        self.inner.released.notify_one();
    }

    /// The guest of this VM ends by itself: with a farewell, or without one.
    pub fn end_guest(&self, vm: &VmId, farewell: Option<Farewell>) {
        if let Some(vmm) = self.model().vmms.get_mut(vm) {
            vmm.lives = false;
            vmm.farewell = farewell;
        }
        self.changed();
    }

    /// The helper was started again and has lost what it knew: taps are there, and nobody knows whose addresses
    /// and rights they carry.
    pub fn lose_memory(&self) {
        let mut model = self.model();
        model.network = false;
        for tap in model.taps.values_mut() {
            *tap = (Ipv4Addr::UNSPECIFIED, false);
        }
    }

    /// The helper dies, or is there again.
    pub fn set_helper(&self, is_there: bool) {
        self.model().helper_away = !is_there;
    }

    /// Resolves when the end of that VM's VMM is waited for: whoever does hears of it, also from a helper that dies.
    pub async fn watched(&self, vm: &VmId) {
        let mut changes = self.changes();
        let is_watched = |model: &Model| model.watches.get(vm).is_some_and(|count| *count > 0);
        while !is_watched(&self.model()) {
            // The sender lives as long as this host.
            let _ = changes.changed().await;
        }
    }

    /// The end of that VM's VMM is waited for as long as the value lives.
    pub(crate) fn watch(&self, vm: &VmId) -> Watch {
        *self.model().watches.entry(vm.clone()).or_default() += 1;
        self.changed();
        Watch {
            host: self.clone(),
            vm: vm.clone(),
        }
    }

    pub(crate) fn helper(&self) -> Result<(), Failure> {
        if self.model().helper_away {
            let what = "the privileged helper does not answer";
            return Err(Failure::new(ErrorCode::HelperUnavailable, what));
        }
        Ok(())
    }

    /// What the tap of a VM is pinned to, and whether it has NAT.
    #[must_use]
    pub fn tap(&self, vm: &VmId) -> Option<(Ipv4Addr, bool)> {
        self.model().taps.get(vm).copied()
    }

    /// What is free for disks from here on; None: plenty.
    pub fn set_free(&self, free: Option<ByteSize>) {
        self.model().free = free;
    }

    /// Somebody else stops or continues this VM's VMM.
    pub fn signal_from_outside(&self, vm: &VmId, paused: bool) {
        if let Some(vmm) = self.model().vmms.get_mut(vm) {
            vmm.paused = paused;
        }
        self.changed();
    }

    /// Whether the guest of that name may ask for names of the world.
    #[must_use]
    pub fn asks_the_world(&self, name: &str) -> bool {
        self.model().open_names.contains(name)
    }

    /// How many VMMs stand still.
    #[must_use]
    pub fn paused(&self) -> usize {
        let model = self.model();
        let stands = |vmm: &&Vmm| vmm.lives && vmm.paused;
        model.vmms.values().filter(stands).count()
    }

    /// How many guests were shut down cleanly.
    #[must_use]
    pub fn shutdowns(&self) -> u32 {
        self.model().shutdowns
    }

    /// The VM as the host has it: its VMM's processors and memory, its disk's size and its tap's NAT.
    #[must_use]
    pub fn real_spec(&self, vm: &VmId) -> Option<VmSpec> {
        let model = self.model();
        Some(VmSpec {
            disk_size: model.folders.get(vm)?.work_disk?,
            nat: model.taps.get(vm)?.1,
            ..model.vmms.get(vm)?.spec.clone()
        })
    }

    /// Whether the VM's work disk is the one that was planted for it.
    #[must_use]
    pub fn is_planted(&self, vm: &VmId) -> bool {
        let model = self.model();
        model
            .folders
            .get(vm)
            .is_some_and(|folder| folder.is_planted)
    }

    /// From here on guests hang: no agent answers.
    pub fn hang_guests(&self) {
        self.model().guests_hang = true;
    }

    /// Guests answer again.
    pub fn heal_guests(&self) {
        self.model().guests_hang = false;
        self.changed();
    }

    /// Somebody in the guest kills its agent: it answers no more until the guest boots again.
    pub fn kill_agent(&self, vm: &VmId) {
        if let Some(vmm) = self.model().vmms.get_mut(vm) {
            vmm.agent_gone = true;
        }
        self.changed();
    }

    /// Somebody takes a disk of that VM's away, or puts it back.
    pub fn set_disk(&self, vm: &VmId, disk: OwnDisk, is_there: bool) {
        if let Some(folder) = self.model().folders.get_mut(vm) {
            match disk {
                OwnDisk::Root(_) => folder.overlay = is_there,
                OwnDisk::Work => folder.work_disk = is_there.then_some(ByteSize(8 << 30)),
            }
        }
    }

    /// The next `count` guests hang as they boot.
    pub fn next_guests_hang(&self, how: Hang, count: u32) {
        self.model().hangs = Some((how, count));
    }

    /// The host starts anew: nothing runs.
    pub fn reboot(&self) {
        let mut model = self.model();
        model.network = false;
        model.taps.clear();
        model.vmms.clear();
        drop(model);
        self.inner.boot.fetch_add(1, Ordering::Relaxed);
        self.changed();
    }

    /// How many VMMs live.
    #[must_use]
    pub fn living(&self) -> usize {
        self.model().vmms.values().filter(|vmm| vmm.lives).count()
    }

    /// How many VMMs were ever started.
    #[must_use]
    pub fn launches(&self) -> u32 {
        self.model().launches
    }

    /// Whether that VM's VMM lives.
    #[must_use]
    pub fn lives(&self, vm: &VmId) -> bool {
        self.model().vmms.get(vm).is_some_and(|vmm| vmm.lives)
    }

    /// What tells the VM's disks from others; None while it has none.
    #[must_use]
    pub fn disks(&self, vm: &VmId) -> Option<u64> {
        let model = self.model();
        let folder = model.folders.get(vm)?;
        folder.work_disk.map(|_| folder.serial)
    }

    /// What the VM has besides its disks, for people. Empty: it does not run.
    #[must_use]
    pub fn running_parts(&self, vm: &VmId) -> Vec<String> {
        let model = self.model();
        let tap = model.taps.get(vm).map(|_| format!("tap of {vm}"));
        let vmm = model.vmms.get(vm).map(|_| format!("VMM of {vm}"));
        tap.into_iter().chain(vmm).collect()
    }

    /// The names that the name service tells.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.model().names.iter().cloned().collect()
    }

    /// What is left on the host of VMs other than these, for people.
    #[must_use]
    pub fn leftovers_but_for(&self, known: &[VmId]) -> Vec<String> {
        let model = self.model();
        let folders = model.folders.keys().map(|vm| (vm, "folder"));
        let taps = model.taps.keys().map(|vm| (vm, "tap"));
        let vmms = model.vmms.keys().map(|vm| (vm, "VMM"));
        let planted = model.planted.iter().map(|vm| (vm, "planted work disk"));
        let all = folders.chain(taps).chain(vmms).chain(planted);
        let others = all.filter(|(vm, _)| !known.contains(vm));
        others.map(|(vm, what)| format!("{what} of {vm}")).collect()
    }

    /// What of VMs is left on the host, for people. Empty: a clean slate.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let names = self.names().into_iter().map(|name| format!("name {name}"));
        self.leftovers_but_for(&[])
            .into_iter()
            .chain(names)
            .collect()
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.inner
            .model
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changed(&self) {
        self.inner.changes.send_modify(|count| *count += 1);
    }

    /// Ticks at each call that changes something.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    pub(crate) fn boot(&self) -> u64 {
        self.inner.boot.load(Ordering::Relaxed)
    }

    /// Somebody sets the host's wall clock (RFC 3339, UTC). Nothing else of its time changes.
    pub fn set_time(&self, now: &str) {
        *self.time() = now.to_owned();
        self.changed();
    }

    pub(crate) fn time(&self) -> MutexGuard<'_, String> {
        self.inner
            .time
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn chance(&self) -> u64 {
        self.inner.chance.fetch_add(1, Ordering::Relaxed)
    }

    /// One call that changes something; fails where the failpoint says.
    pub(crate) async fn act<T>(
        &self,
        effect: impl FnOnce(&mut Model) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mode = {
            let mut calls = self
                .inner
                .calls
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let mode = calls
                .1
                .filter(|point| point.at == calls.0)
                .map(|point| point.mode);
            calls.0 += 1;
            mode
        };
        match mode {
            Some(FailMode::Error) => return Err(Failure::new(ErrorCode::Internal, "told to fail")),
            Some(FailMode::DiskFull) => {
                return Err(Failure::new(ErrorCode::DiskFull, "told to be full"));
            }
            Some(FailMode::CrashBefore) => self.crash().await,
            Some(FailMode::Hold) => {
                self.inner.held.notify_one();
                self.inner.released.notified().await;
            }
            Some(FailMode::CrashAfter) | None => {}
        }
        let result = effect(&mut self.model());
        self.changed();
        if mode == Some(FailMode::CrashAfter) {
            self.crash().await;
        }
        result
    }

    async fn crash(&self) {
        self.inner.crashed.notify_one();
        std::future::pending::<()>().await;
    }
}
