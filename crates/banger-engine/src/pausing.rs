//! While the file system of the VMs' disks is nearly full, every VM stands still: a guest that cannot
//! write must not notice. One task looks at what is free, as often as the disk could fill, and only
//! while something runs. That a VM is paused is a fact of its process, so nothing is stored: the next
//! daemon finds it so.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use banger_core::{ByteSize, ErrorCode, Phase, VmId};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use crate::inner::{Inner, VmHandle};
use crate::ports::{Failure, VmFacts};
use crate::space::{FAR, Levels, Room, Verdict, decide};
use crate::view::VmView;

/// Why a guest stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseReason {
    /// The file system of its disks is nearly full.
    NoRoom {
        /// What is kept free there.
        reserve: ByteSize,
    },
    /// Somebody else stopped its VMM.
    Signal,
}

impl fmt::Display for PauseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom { reserve } => write!(
                f,
                "the host's disk is nearly full: less than {reserve} (disk_reserve) was left"
            ),
            Self::Signal => f.write_str("its VMM was stopped by a signal from outside banger"),
        }
    }
}

/// What the task and the actors share.
#[derive(Debug, Default)]
pub(crate) struct Pausing {
    /// VMs that are being stopped. Held while VMs are paused or resumed.
    spared: Mutex<BTreeSet<VmId>>,
    is_low: AtomicBool,
    look: Notify,
}

impl Pausing {
    /// Something runs that did not run before.
    pub(crate) fn look_again(&self) {
        self.look.notify_one();
    }
}

impl VmView {
    /// Whether its guest runs and can answer.
    ///
    /// # Errors
    /// It does not run, or it is paused: with the reason, and what to do.
    pub fn is_awake(&self) -> Result<(), Failure> {
        if self.phase != Phase::Running {
            let phase = self.phase.as_str();
            let what = format!("the VM `{}` does not run: it is {phase}", self.name);
            return Err(Failure::new(ErrorCode::VmNotRunning, what)
                .hint(format!("start it: banger vm start {}", self.name)));
        }
        match self.paused {
            Some(_) => Err(self.stands_still()),
            None => Ok(()),
        }
    }

    /// What was asked needs a guest that runs, and this one is paused.
    #[must_use]
    pub fn stands_still(&self) -> Failure {
        let why = self.paused.unwrap_or(PauseReason::Signal);
        let failure = Failure::new(
            ErrorCode::VmPaused,
            format!("the VM `{}` is paused: {why}", self.name),
        );
        match why {
            PauseReason::NoRoom { .. } => failure.hint(
                "it goes on by itself when there is room: delete VMs or files there, or lower `disk_reserve`",
            ),
            PauseReason::Signal => {
                failure.hint(format!("let it go on: banger vm start {}", self.name))
            }
        }
    }
}

impl Inner {
    /// Whether another VM may be started.
    pub(crate) async fn has_room(&self) -> Result<(), Failure> {
        let levels = Levels::of(self.config.disk_reserve);
        let free = match self.ports.space.free().await {
            Ok(free) => free,
            Err(failure) => {
                tracing::warn!(%failure, "what is free for the VMs' disks is not known");
                return Ok(());
            }
        };
        let was_low = self.pausing.is_low.load(Ordering::Acquire);
        if levels.judge(free, was_low) == Room::Enough {
            return Ok(());
        }
        let what = format!(
            "the host's disk is nearly full: {free} are free, and VMs run while {} are (disk_reserve)",
            self.config.disk_reserve
        );
        Err(Failure::new(ErrorCode::DiskFull, what)
            .hint("make room there: `banger daemon status` names the state directory, `banger vm prune` deletes VMs that do not run"))
    }

    /// Lets a VM run to its end: it is being stopped.
    pub(crate) async fn spare(&self, vm: &VmId) {
        let mut spared = self.pausing.spared.lock().await;
        spared.insert(vm.clone());
        let Some(handle) = self.handle(vm) else {
            return;
        };
        let is_paused = handle.view.borrow().paused.is_some();
        if is_paused {
            match self.ports.helper.resume(vm).await {
                Ok(()) => mark(&handle, None),
                Err(failure) => tracing::warn!(%vm, %failure, "a paused VM could not be resumed"),
            }
        }
    }

    /// It has ended.
    pub(crate) async fn spare_no_more(&self, vm: &VmId) {
        self.pausing.spared.lock().await.remove(vm);
    }

    /// Lets a paused VM go on, if there is room.
    pub(crate) async fn unpause(&self, vm: &VmId) -> Result<(), Failure> {
        let _alone = self.pausing.spared.lock().await;
        let Some(handle) = self.handle(vm) else {
            return Ok(());
        };
        let view = handle.view.borrow().clone();
        if view.paused.is_none() {
            return Ok(());
        }
        if self.has_room().await.is_err() {
            return Err(view.stands_still());
        }
        self.ports.helper.resume(vm).await?;
        mark(&handle, None);
        Ok(())
    }
}

/// Notes whether a VM stands still. Only what can run can be paused.
fn mark(handle: &VmHandle, why: Option<PauseReason>) {
    handle.written.send_if_modified(|view| {
        let why = why.filter(|_| can_be_paused(view.phase));
        let differs = view.paused != why;
        view.paused = why;
        differs
    });
}

/// Whether a VM in that phase may have a VMM that writes. One that is being started does not yet.
pub(crate) const fn can_be_paused(phase: Phase) -> bool {
    matches!(phase, Phase::Running | Phase::Stopping | Phase::Failed)
}

/// What the task remembers from look to look.
struct Looks {
    levels: Levels,
    /// VMs that an earlier daemon may have paused, until they have been dealt with.
    found: BTreeSet<VmId>,
    /// When the processes were last looked at.
    probed: Option<Instant>,
    /// Whether some VMM may live: that a VM failed does not say it.
    may_live: bool,
}

/// Looks as long as the engine lives. `found`: the VMs that were there when it began.
pub(crate) async fn watch_space(inner: Arc<Inner>, found: BTreeSet<VmId>) {
    let mut looks = Looks {
        levels: Levels::of(inner.config.disk_reserve),
        found,
        probed: None,
        may_live: true,
    };
    loop {
        if !may_write(phases(&inner), looks.may_live) {
            inner.pausing.look.notified().await;
            looks.may_live = true;
        }
        let pause = looks.look(&inner).await;
        // Cancel-safe: both only wait.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = inner.pausing.look.notified() => {}
        }
    }
}

fn phases(inner: &Inner) -> impl Iterator<Item = Phase> {
    inner.views().into_iter().map(|view| view.phase)
}

/// Whether there is anything to look after; `may_live`: some VMM may have lived at the last look.
fn may_write(mut phases: impl Iterator<Item = Phase>, may_live: bool) -> bool {
    phases.any(|phase| match phase {
        Phase::Starting | Phase::Running | Phase::Stopping => true,
        Phase::Failed => may_live,
        // The VMM of one that is being deleted is ended first.
        Phase::Provisioning | Phase::Stopped | Phase::Deleting => false,
    })
}

impl Looks {
    /// One look; gives the time until the next.
    async fn look(&mut self, inner: &Inner) -> std::time::Duration {
        let free = match inner.ports.space.free().await {
            Ok(free) => free,
            Err(failure) => {
                tracing::warn!(%failure, "what is free for the VMs' disks is not known");
                return FAR;
            }
        };
        let was_low = inner.pausing.is_low.load(Ordering::Acquire);
        let room = self.levels.judge(free, was_low);
        let is_due = self.probed.is_none_or(|at| at.elapsed() >= FAR);
        if room != Room::Enough || was_low || is_due {
            // Before the first VM is paused: no start comes in between.
            inner
                .pausing
                .is_low
                .store(room != Room::Enough || was_low, Ordering::Release);
            // One that was paused by a signal of somebody else's since then is not ours to resume.
            let is_over = |vm: &VmId| was_low || self.found.contains(vm);
            match each(inner, room, is_over).await {
                Ok(lives) => {
                    self.may_live = lives || may_write(phases(inner), false);
                    self.found.clear();
                    self.probed = Some(Instant::now());
                    let is_low = room != Room::Enough;
                    inner.pausing.is_low.store(is_low, Ordering::Release);
                    if is_low != was_low {
                        let paused = is_low;
                        tracing::warn!(%free, reserve = %inner.config.disk_reserve, paused, "room for the VMs' disks");
                    }
                }
                Err(failure) => tracing::warn!(%failure, "VMs are not looked after"),
            }
        }
        self.levels.next_look(free)
    }
}

/// Pauses and resumes VMs, and notes which stand still. True when there is one that could write.
async fn each(inner: &Inner, room: Room, is_over: impl Fn(&VmId) -> bool) -> Result<bool, Failure> {
    let spared = inner.pausing.spared.lock().await;
    let facts = inner.ports.helper.facts().await?;
    let fact_of = |vm: &VmId| {
        let fact = facts.iter().find(|(id, _)| id == vm);
        fact.map(|(_, fact)| *fact).unwrap_or_default()
    };
    let mut result = Ok(());
    let mut some_live = false;
    for view in inner.views() {
        let Some(handle) = inner.handle(&view.id) else {
            continue;
        };
        let VmFacts { vmm, .. } = fact_of(&view.id);
        if vmm.vmm.is_none() || !can_be_paused(view.phase) {
            mark(&handle, None);
            continue;
        }
        some_live = true;
        let helper = &inner.ports.helper;
        let verdict = decide(
            room,
            vmm.paused,
            spared.contains(&view.id),
            is_over(&view.id),
        );
        let done = match verdict {
            Verdict::Pause => helper.pause(&view.id).await.map(|()| true),
            Verdict::Resume => helper.resume(&view.id).await.map(|()| false),
            Verdict::Keep => Ok(vmm.paused),
        };
        match done {
            Ok(false) => mark(&handle, None),
            Ok(true) => mark(&handle, Some(reason(inner, room))),
            // The others have their turn; this one has it again at the next look.
            Err(failure) => {
                tracing::warn!(vm = %view.id, %failure, ?verdict, "a VM could not be paused or resumed");
                result = Err(failure);
            }
        }
    }
    // One that has ended meanwhile was no failure.
    if result.is_err() {
        let now = inner.ports.helper.facts().await?;
        let lives = |vm: &VmId| {
            now.iter()
                .any(|(id, fact)| id == vm && fact.vmm.vmm.is_some())
        };
        if facts
            .iter()
            .filter(|(_, fact)| fact.vmm.vmm.is_some())
            .all(|(vm, _)| lives(vm))
        {
            return result.map(|()| some_live);
        }
    }
    Ok(some_live)
}

const fn reason(inner: &Inner, room: Room) -> PauseReason {
    match room {
        Room::Enough => PauseReason::Signal,
        Room::Low | Room::Out => PauseReason::NoRoom {
            reserve: inner.config.disk_reserve,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_host_is_not_looked_at() {
        use Phase::{Deleting, Failed, Provisioning, Running, Starting, Stopped, Stopping};
        let idle = [Provisioning, Stopped, Deleting];
        assert!(!may_write(idle.into_iter(), true));
        for phase in [Starting, Running, Stopping] {
            assert!(
                may_write(idle.into_iter().chain([phase]), false),
                "{phase:?}"
            );
        }
        // A VM that failed has a VMM, or none; the last look knows.
        assert!(may_write([Failed].into_iter(), true));
        assert!(!may_write([Failed].into_iter(), false));
    }
}
