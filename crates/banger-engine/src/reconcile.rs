//! Making what exists and what is wanted agree: at the start, and when the helper comes back. Facts are
//! gathered once; removals come first. What runs is adopted, never wiped.

use std::path::PathBuf;
use std::sync::Arc;

use banger_core::{ErrorCode, Event, Intent, Phase, VmId};

use crate::actor::Actor;
use crate::database::unreadable;
use crate::inner::{Inner, Wish};
use crate::operation::{Goal, OpKind, Operation, TaskContext};
use crate::ports::{Failure, GuestState, TapFacts, VmFacts};

/// What a pass found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// What could not be put right, for people.
    pub problems: Vec<String>,
    /// VMs whose VMM was found running.
    pub adopted: u32,
    /// Things of VMs that do not exist, removed.
    pub orphans: u32,
}

pub(crate) async fn reconcile(inner: &Arc<Inner>) -> Result<ReconcileReport, Failure> {
    let mut report = ReconcileReport::default();
    let facts = inner.ports.helper.facts().await?;
    let folders = inner.ports.drives.list().await?;
    let fact_of = |vm: &VmId| {
        let mut fact = facts
            .iter()
            .find(|(id, _)| id == vm)
            .map(|(_, fact)| *fact)
            .unwrap_or_default();
        fact.folder = folders.contains(vm);
        fact
    };
    report
        .problems
        .extend(inner.unreadable.iter().map(|vm| unreadable(vm).in_full()));
    // Of a row that cannot even be said whose it is, everything unknown may be.
    let nameless = inner.unreadable.iter().any(|vm| vm.id.is_none());
    let unread = |id: &VmId| inner.unreadable.iter().any(|vm| vm.id.as_ref() == Some(id));
    let known = |vm: &VmId| nameless || unread(vm) || inner.handle(vm).is_some();
    let mut orphans: Vec<&VmId> = facts
        .iter()
        .map(|(vm, _)| vm)
        .chain(&folders)
        .filter(|vm| !known(vm))
        .collect();
    orphans.sort();
    orphans.dedup();
    for vm in orphans {
        report.orphans += 1;
        match remove_orphan(inner, vm, &fact_of(vm)).await {
            Ok(None) => {}
            Ok(Some(place)) => report.problems.push(format!(
                "the database knows no VM {vm}; its disks are kept in {}",
                place.display()
            )),
            Err(failure) => report.problems.push(format!(
                "{vm} belongs to no VM and could not be removed: {failure}"
            )),
        }
    }
    for view in inner.views() {
        let facts = fact_of(&view.id);
        report.adopted += u32::from(facts.vmm.vmm.is_some());
        if let Some(handle) = inner.handle(&view.id) {
            // A VM that is just being deleted has no ears any more: that is as good.
            let _ = handle.wishes.send(Wish::Recover { facts });
        }
    }
    Ok(report)
}

/// A VM is stored before anything of it is made, and forgotten after all of it is gone: disks that nobody knows are
/// those of a database that was lost, and are kept. Gives where.
async fn remove_orphan(
    inner: &Inner,
    vm: &VmId,
    facts: &VmFacts,
) -> Result<Option<PathBuf>, Failure> {
    if facts.vmm.remains || facts.vmm.vmm.is_some() || facts.vmm.backend.is_some() {
        inner.ports.helper.remove_vmm(vm).await?;
    }
    if facts.tap.is_some() {
        inner.ports.helper.remove_tap(vm).await?;
    }
    inner.ports.drives.set_aside(vm).await
}

impl Actor {
    /// Takes up from the stored phase and from what exists; true when the VM is gone afterwards.
    pub(crate) async fn recover(&mut self, facts: VmFacts) -> bool {
        if std::mem::replace(&mut self.taken_up, true) {
            // The helper is another one; of what this actor does it knows itself.
            self.look_again(&facts).await;
            return false;
        }
        let mut resumed = self.inner.resumed_of(&self.row.id);
        let mut op = (!resumed.is_empty()).then(|| resumed.remove(0));
        self.inner.end_resumed(resumed).await;
        let result = self.recover_from(facts, &mut op).await;
        let is_gone = *result.as_ref().unwrap_or(&false);
        if let Err(failure) = &result {
            tracing::warn!(vm = %self.row.id, %failure, "the VM could not be recovered");
        }
        if let Some(op) = op {
            self.inner.finish(&op, result.map(drop)).await;
        }
        is_gone
    }

    /// Goes on with the VM, and with the operation that an earlier daemon left, if there is one.
    async fn recover_from(
        &mut self,
        facts: VmFacts,
        op: &mut Option<Arc<Operation>>,
    ) -> Result<bool, Failure> {
        let context = op.as_ref().map(|op| TaskContext::new(Arc::clone(op)));
        let same_boot = self.row.boot_id.as_ref() == Some(&self.inner.ports.clock.boot_id());
        let lives = facts.vmm.vmm.is_some();
        // Who waits for this operation waits for the guest, as far and as long as it asked.
        let goal = op.as_ref().and_then(|op| op.view().goal);
        let goal = goal.unwrap_or(Goal {
            wait: Some(GuestState::Reachable),
            deadline: self.inner.config.boot_deadline,
        });
        match self.row.phase {
            Phase::Deleting => return self.delete(op.as_ref()).await.map(|()| true),
            Phase::Starting | Phase::Running | Phase::Stopping if !same_boot => {
                let was_wanted = self.row.intent == Intent::Running;
                self.row.intent = Intent::Stopped;
                self.enter(Event::HostRebooted).await?;
                // All that ran is gone with the host's last boot, and so is the helper's memory of it; the names in
                // the VM's folder are still there.
                self.take_down(None).await?;
                if was_wanted && op.is_some() {
                    return Err(host_rebooted());
                }
                return Ok(false);
            }
            Phase::Stopping => {
                self.tear_down(context.as_ref()).await?;
                // The middle of a restart, or of a reboot by the guest.
                if self.row.intent == Intent::Running {
                    self.boot(context.as_ref(), None).await?;
                }
            }
            Phase::Running => self.look_again(&facts).await,
            Phase::Starting if lives => {
                self.watching = true;
                self.view.send_modify(|view| view.vmm_pid = facts.vmm.vmm);
                self.restore_tap(&facts).await;
                self.enter(Event::VmmUp).await?;
            }
            Phase::Starting => self.boot(context.as_ref(), None).await?,
            Phase::Provisioning => {
                if !same_boot {
                    // Its disks are finished; that it runs was a wish of before.
                    self.row.intent = Intent::Stopped;
                    if let Some(op) = op.take() {
                        self.inner.finish(&op, Err(host_rebooted())).await;
                    }
                }
                let (inner, row) = (&self.inner, &self.row);
                let (name, vm) = (row.name.to_string(), row.id.clone());
                let begin = || inner.begin(OpKind::StartVm, name, Some(vm), Some(goal));
                let op = op.take().unwrap_or_else(begin);
                let start = self.row.intent == Intent::Running;
                self.pending.push_front(Wish::Create { start, goal, op });
            }
            Phase::Stopped | Phase::Failed if !lives => {}
            Phase::Stopped => {
                // It was stopped, and runs: what is stored is what was wanted.
                self.inner.ports.helper.remove_vmm(&self.row.id).await?;
            }
            Phase::Failed => {}
        }
        if self.row.phase == Phase::Stopped {
            // A stopped VM has neither VMM nor tap.
            self.take_down(None).await?;
        }
        if let (Phase::Running, Some(op)) = (self.row.phase, op.as_ref()) {
            self.start(goal, op, None).await?;
        }
        Ok(false)
    }

    /// Has a VM that runs watched, and its network as it is stored.
    async fn look_again(&mut self, facts: &VmFacts) {
        if self.row.phase != Phase::Running {
            return;
        }
        if !self.watching {
            // A VMM that has ended meanwhile is found by the watch, with its farewell.
            self.watching = true;
            self.view.send_modify(|view| view.vmm_pid = facts.vmm.vmm);
        }
        self.restore_tap(facts).await;
    }

    /// Brings the tap of a VM that runs in line with what is stored: its NAT, or all of it when the helper has lost
    /// its memory.
    async fn restore_tap(&self, facts: &VmFacts) {
        let (row, helper) = (&self.row, &self.inner.ports.helper);
        let wanted = TapFacts {
            address: row.address,
            nat: row.spec.nat,
        };
        if facts.tap.is_none_or(|tap| tap == wanted) {
            return;
        }
        let restored = async {
            helper.ensure_network().await?;
            helper.ensure_tap(&row.id, wanted.address, wanted.nat).await
        };
        if let Err(failure) = restored.await {
            tracing::warn!(vm = %row.id, %failure, "the VM's network is not as it is stored");
        }
    }
}

fn host_rebooted() -> Failure {
    Failure::new(ErrorCode::VmmFailed, "the host was started again meanwhile")
        .hint("the VM is stopped, with its disks as they were: `banger vm start`")
}
