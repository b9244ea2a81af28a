//! The one task that owns a VM's phase.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_core::{ErrorCode, Event, Intent, Phase, step_phase};
use banger_store::VmRow;
use tokio::sync::{mpsc, watch};

use crate::execute::{FailedStep, Findings, run_group};
use crate::guest_wait::Waited;
use crate::helper_wait::vmm_end;
use crate::inner::{Inner, Wish};
use crate::operation::{Goal, Operation, TaskContext};
use crate::pausing::can_be_paused;
use crate::plan::{plan_delete, plan_provision, plan_start, plan_teardown};
use crate::ports::{ExitFacts, Failure, Farewell, GuestState, VmFacts};
use crate::step::Step;
use crate::view::{VmView, write_failure};

/// A guest that reboots more often than this in [`REBOOT_WINDOW`] is broken.
const MAX_REBOOTS: usize = 5;
const REBOOT_WINDOW: Duration = Duration::from_secs(10);

/// The task's state.
pub(crate) struct Actor {
    pub(crate) inner: Arc<Inner>,
    pub(crate) row: VmRow,
    pub(crate) view: Arc<watch::Sender<VmView>>,
    pub(crate) wishes: mpsc::UnboundedReceiver<Wish>,
    pub(crate) pending: VecDeque<Wish>,
    /// Whether the VMM's end is to be watched for.
    pub(crate) watching: bool,
    pub(crate) reboots: Vec<Instant>,
    /// Whether what an earlier daemon left of it was taken up, or is being.
    pub(crate) taken_up: bool,
}

/// Why a plan was not finished.
pub(crate) enum Stopped {
    /// A step failed.
    Step(FailedStep),
    /// A stop or delete came in between.
    Preempted,
}

impl Actor {
    /// Lives until the VM is deleted.
    pub(crate) async fn run(mut self) {
        while let Some(wish) = self.idle().await {
            if self.act(wish).await {
                return;
            }
        }
    }

    /// Waits for a wish, and meanwhile for what the guest does by itself. None: the engine is gone.
    async fn idle(&mut self) -> Option<Wish> {
        loop {
            // What came while a guest was seen to its end, too.
            if let Some(wish) = self.pending.pop_front() {
                return Some(wish);
            }
            let vm = self.row.id.clone();
            let inner = Arc::clone(&self.inner);
            let readiness = self.view.borrow().readiness;
            let next_state = match readiness {
                Some(GuestState::Ready) => None,
                Some(GuestState::Reachable) => Some(GuestState::Ready),
                None => Some(GuestState::Reachable),
            };
            let observing = self.watching && next_state.is_some();
            let state = next_state.unwrap_or(GuestState::Ready);
            tokio::select! {
                biased;
                // Cancel-safe: the exit is a fact that stays true.
                exit = vmm_end(&inner, &vm), if self.watching => self.on_exit(exit).await,
                // Cancel-safe: a received wish is returned at once.
                wish = self.wishes.recv() => return wish,
                // Cancel-safe: only observes.
                result = inner.ports.guests.wait(&vm, state), if observing => {
                    if result.is_ok() {
                        self.view.send_modify(|view| view.readiness = Some(state));
                    } else {
                        // The backend is gone or the guest is ending: the exit watch will say so.
                        if let ControlFlow::Break(wish) = self.wait_for_exit_or_wish().await {
                            return wish;
                        }
                    }
                }
            }
        }
    }

    async fn wait_for_exit_or_wish(&mut self) -> ControlFlow<Option<Wish>> {
        let vm = self.row.id.clone();
        let inner = Arc::clone(&self.inner);
        tokio::select! {
            biased;
            exit = vmm_end(&inner, &vm), if self.watching => {
                self.on_exit(exit).await;
                ControlFlow::Continue(())
            }
            wish = self.wishes.recv() => ControlFlow::Break(wish),
        }
    }

    /// Does what is wished; true when the VM is gone.
    async fn act(&mut self, wish: Wish) -> bool {
        if !self.taken_up && !matches!(wish, Wish::Recover { .. }) {
            return self.take_up_before(wish).await;
        }
        if let Err(failure) = self.admit(&wish).await {
            if let Some(op) = wish.operation() {
                self.inner.finish(op, Err(failure)).await;
            }
            return false;
        }
        match wish {
            Wish::Create { start, goal, op } => self.create(start, goal, &op).await,
            Wish::Start { goal, op } => {
                let result = self.start(goal, &op, None).await;
                self.inner.finish(&op, result).await;
                false
            }
            Wish::Stop { grace, op } => {
                let result = self.stop(grace, Some(&op)).await;
                self.inner.finish(&op, result).await;
                false
            }
            Wish::Restart { grace, goal, op } => {
                let result = self.restart(grace, goal, &op).await;
                self.inner.finish(&op, result).await;
                false
            }
            Wish::Kill { signal, op, .. } => {
                let result = self.kill(signal, &op).await;
                self.inner.finish(&op, result).await;
                false
            }
            Wish::Set { change, op } => {
                let result = self.set(change, &op).await;
                self.inner.finish(&op, result).await;
                false
            }
            Wish::Delete { op, .. } => {
                let result = self.delete(Some(&op)).await;
                let is_gone = result.is_ok();
                self.inner.finish(&op, result).await;
                is_gone
            }
            Wish::Recover { facts } => self.recover(facts).await,
        }
    }

    /// Takes up what an earlier daemon left before anything is done; true when the VM is gone.
    async fn take_up_before(&mut self, wish: Wish) -> bool {
        let facts = match self.facts().await {
            Ok(facts) => facts,
            Err(failure) => {
                if let Some(op) = wish.operation() {
                    self.inner.finish(op, Err(failure)).await;
                }
                return false;
            }
        };
        // It may come in between the steps of the recovery, or be the last that is told.
        self.pending.push_back(wish);
        self.recover(facts).await
    }

    /// Makes the VM; true when nothing of it is left.
    async fn create(&mut self, start: bool, goal: Goal, op: &Arc<Operation>) -> bool {
        let context = TaskContext::new(Arc::clone(op));
        let room = if start {
            self.inner.has_room().await
        } else {
            Ok(())
        };
        let provisioned = match room {
            Ok(()) => self.provision(Some(&context)).await,
            Err(failure) => Err(failure),
        };
        let result = match provisioned {
            Ok(findings) if start => self.start(goal, op, Some(findings)).await,
            result => result.map(drop),
        };
        let is_full = |failure: &Failure| failure.code == ErrorCode::DiskFull;
        let is_gone = !self.watching && result.as_ref().is_err_and(is_full) && self.undo().await;
        self.inner.finish(op, result).await;
        is_gone
    }

    /// Takes away what a create has made before its file system was full: there is nothing to inspect
    /// in it, and the room is needed.
    async fn undo(&mut self) -> bool {
        // First the files: the database needs room as well, to forget the VM. What is left then, the
        // delete tells.
        let _ = self.inner.ports.drives.remove_folder(&self.row.id).await;
        let undone = self.delete(None).await;
        if let Err(failure) = &undone {
            tracing::warn!(vm = %self.row.id, %failure, "a create that failed could not be undone");
        }
        undone.is_ok()
    }

    async fn provision(&mut self, context: Option<&TaskContext>) -> Result<Findings, Failure> {
        let findings = Findings::default();
        let outcome = self.run_plan(plan_provision(), &findings, context).await;
        self.note_findings(&findings);
        self.settle_async(outcome).await?;
        self.enter(Event::Provisioned).await?;
        Ok(findings)
    }

    pub(crate) async fn start(
        &mut self,
        goal: Goal,
        op: &Arc<Operation>,
        provisioned: Option<Findings>,
    ) -> Result<(), Failure> {
        let context = TaskContext::new(Arc::clone(op));
        if self.row.phase == Phase::Stopping {
            // A teardown that was not finished.
            self.bring_down(Duration::ZERO, Some(op)).await?;
        }
        if self.row.phase == Phase::Running {
            self.inner.unpause(&self.row.id).await?;
        } else {
            let booted = self.boot(Some(&context), provisioned).await;
            let was_left = booted.is_err() && self.row.phase == Phase::Starting;
            if was_left && !self.is_preempted() {
                // It was cancelled, and nobody comes after it.
                self.stop(Duration::ZERO, None).await?;
            }
            booted?;
        }
        let Some(state) = goal.wait else {
            return Ok(());
        };
        match self.wait_for_guest(state, goal.deadline, &context).await {
            Waited::Reached => Ok(()),
            Waited::Preempted => Err(preempted()),
            Waited::Failed(failure) => Err(failure),
        }
    }

    /// From Stopped or Failed to a launched VMM.
    pub(crate) async fn boot(
        &mut self,
        context: Option<&TaskContext>,
        provisioned: Option<Findings>,
    ) -> Result<(), Failure> {
        let patience = self.patience();
        let facts = loop {
            let ready = match self.inner.has_room().await {
                Ok(()) => self.facts().await,
                Err(failure) => Err(failure),
            };
            match ready {
                Ok(facts) => break facts,
                Err(failure) => {
                    // Whoever asked for it is told at once.
                    if context.is_none() {
                        if self.outwaits(&failure, patience).await {
                            continue;
                        }
                        self.row.failure = write_failure(&failure);
                    }
                    return Err(self.stays_down(failure).await);
                }
            }
        };
        self.row.intent = Intent::Running;
        self.row.failure = None;
        self.row.boot_id = Some(self.inner.ports.clock.boot_id());
        self.row.started_at = Some(self.inner.ports.clock.now());
        if self.row.phase != Phase::Starting {
            self.enter(Event::StartAccepted).await?;
        }
        let mut plan = plan_start(&facts, provisioned.is_some());
        let mut findings = provisioned.unwrap_or_default();
        loop {
            let outcome = self.run_plan(plan, &findings, context).await;
            self.note_findings(&findings);
            if let (None, Err(Stopped::Step(failed))) = (context, &outcome)
                && self.outwaits(&failed.failure, patience).await
                && let Ok(facts) = self.facts().await
            {
                // From what is there now, which may be half of what the helper did last.
                plan = plan_start(&facts, false);
                findings = Findings::default();
                continue;
            }
            self.settle_async(outcome).await?;
            break;
        }
        let pid = findings
            .launched
            .into_inner()
            .ok()
            .flatten()
            .and_then(|facts| facts.vmm);
        self.view.send_modify(|view| {
            view.vmm_pid = pid;
            view.readiness = None;
        });
        self.watching = true;
        self.enter(Event::VmmUp).await?;
        self.inner.pausing.look_again();
        Ok(())
    }

    /// Nothing was begun: whoever waits for a boot of this VM waits no longer.
    async fn stays_down(&mut self, failure: Failure) -> Failure {
        self.row.intent = Intent::Stopped;
        if let Err(problem) = self.save().await {
            tracing::error!(vm = %self.row.id, %problem, "that it does not start could not be stored");
        }
        failure
    }

    pub(crate) async fn stop(
        &mut self,
        grace: Duration,
        op: Option<&Arc<Operation>>,
    ) -> Result<(), Failure> {
        self.row.intent = Intent::Stopped;
        if self.row.phase == Phase::Stopped {
            return self.save().await;
        }
        self.bring_down(grace, op).await
    }

    /// From anything to nothing that runs, whatever is intended.
    pub(crate) async fn bring_down(
        &mut self,
        grace: Duration,
        op: Option<&Arc<Operation>>,
    ) -> Result<(), Failure> {
        let context = op.map(|op| TaskContext::new(Arc::clone(op)));
        match self.row.phase {
            Phase::Stopped => return Ok(()),
            Phase::Provisioning => {
                // Nothing runs: what is missing of the drives is made by the next start.
                return self.enter(Event::StopAccepted).await;
            }
            Phase::Stopping => {}
            _ => self.enter(Event::StopAccepted).await?,
        }
        if self.watching && !grace.is_zero() {
            if let Some(context) = &context {
                context.begin("shutdown", "clean shutdown");
            }
            self.inner.spare(&self.row.id).await;
            let ended = self.shut_down(grace).await;
            if let Some(context) = &context {
                context.end("shutdown", ended);
            }
        }
        self.tear_down(context.as_ref()).await
    }

    /// Takes down what runs; the disks stay.
    pub(crate) async fn tear_down(&mut self, context: Option<&TaskContext>) -> Result<(), Failure> {
        self.watching = false;
        self.forget_seen();
        let patience = self.patience();
        while let Err(failure) = self.take_down(context).await {
            // Whoever asked for it is told at once.
            if context.is_some() || !self.outwaits(&failure, patience).await {
                return Err(self.fail(failure).await);
            }
        }
        self.inner.spare_no_more(&self.row.id).await;
        self.enter(Event::TornDown).await
    }

    /// Removes what there is besides the disks.
    pub(crate) async fn take_down(&self, context: Option<&TaskContext>) -> Result<(), Failure> {
        let facts = self.facts().await?;
        let findings = Findings::default();
        for group in plan_teardown(&facts) {
            let done = run_group(&self.inner, &self.row, &group, &findings, context).await;
            done.map_err(|failed| failed.failure)?;
        }
        Ok(())
    }

    pub(crate) async fn delete(&mut self, op: Option<&Arc<Operation>>) -> Result<(), Failure> {
        self.row.intent = Intent::Deleted;
        self.watching = false;
        self.enter(Event::DeleteAccepted).await?;
        let context = op.map(|op| TaskContext::new(Arc::clone(op)));
        let facts = self.facts().await?;
        let drives = Arc::clone(&self.inner.ports.drives);
        drives.uproot_work_disk(&self.row.id).await?;
        for group in plan_delete(&facts) {
            let findings = Findings::default();
            let result =
                run_group(&self.inner, &self.row, &group, &findings, context.as_ref()).await;
            result.map_err(|failed| failed.failure)?;
        }
        let vm = self.row.id.clone();
        self.inner.store(move |store| store.delete_vm(&vm)).await?;
        self.inner.forget(&self.row.id);
        self.inner.publish_names().await;
        self.fail_pending().await;
        Ok(())
    }

    /// Whoever still waits for this VM is told that it is gone.
    async fn fail_pending(&mut self) {
        self.wishes.close();
        while let Ok(wish) = self.wishes.try_recv() {
            self.pending.push_back(wish);
        }
        for wish in std::mem::take(&mut self.pending) {
            if let Some(op) = wish.operation() {
                let result = match wish {
                    Wish::Delete { .. } => Ok(()),
                    _ => Err(Failure::new(ErrorCode::VmNotFound, "the VM was deleted")),
                };
                self.inner.finish(op, result).await;
            }
        }
    }

    /// The VMM has ended, or its backend has.
    async fn on_exit(&mut self, exit: Result<ExitFacts, Failure>) {
        self.watching = false;
        let exit = match exit {
            Ok(exit) => exit,
            Err(failure) => {
                tracing::warn!(vm = %self.row.id, %failure, "the VMM is not watched");
                return;
            }
        };
        let result = match exit.farewell {
            _ if exit.backend_lost => Err(self.fail(backend_lost()).await),
            Some(Farewell::Poweroff) => self.stop(Duration::ZERO, None).await,
            Some(Farewell::Reboot) if self.may_reboot() => self.reboot().await,
            Some(Farewell::Reboot) => Err(self.fail(reboots_on()).await),
            None => Err(self.fail(died(&exit)).await),
        };
        if let Err(failure) = result {
            tracing::warn!(vm = %self.row.id, %failure, "the VM ended");
        }
    }

    pub(crate) fn may_reboot(&mut self) -> bool {
        self.reboots.retain(|at| at.elapsed() < REBOOT_WINDOW);
        self.reboots.push(Instant::now());
        self.reboots.len() <= MAX_REBOOTS
    }

    pub(crate) async fn reboot(&mut self) -> Result<(), Failure> {
        self.enter(Event::StopAccepted).await?;
        self.tear_down(None).await?;
        self.boot(None, None).await
    }

    /// Runs a plan; looks for a stop, a delete or a cancel between its groups.
    async fn run_plan(
        &mut self,
        plan: Vec<Vec<Step>>,
        findings: &Findings,
        context: Option<&TaskContext>,
    ) -> Result<(), Stopped> {
        for group in plan {
            if self.is_preempted() || context.is_some_and(crate::ports::Progress::cancelled) {
                return Err(Stopped::Preempted);
            }
            run_group(&self.inner, &self.row, &group, findings, context)
                .await
                .map_err(Stopped::Step)?;
        }
        Ok(())
    }

    /// Whether a stop or a delete waits.
    pub(crate) fn is_preempted(&mut self) -> bool {
        while let Ok(wish) = self.wishes.try_recv() {
            self.pending.push_back(wish);
        }
        let row = &self.row;
        let interrupts = |wish: &Wish| wish.interrupts(row.phase, &row.spec);
        self.pending.iter().any(interrupts)
    }

    fn note_findings(&mut self, findings: &Findings) {
        let found = |lock: std::sync::LockResult<_>| lock.ok();
        if let Some(Some(image)) = found(findings.image.lock()).as_deref() {
            self.row.image_digest = Some(image.digest.clone());
        }
        if let Some(Some(kernel)) = findings.kernel.lock().ok().as_deref() {
            self.row.kernel = Some(kernel.name.clone());
        }
    }

    fn settle(&mut self, outcome: Result<(), Stopped>) -> Result<(), Failure> {
        match outcome {
            Ok(()) => Ok(()),
            Err(Stopped::Preempted) => Err(preempted()),
            Err(Stopped::Step(failed)) => {
                let failure = in_stage(failed);
                self.row.failure = write_failure(&failure);
                if let Ok(phase) = step_phase(self.row.phase, Event::StepFailed) {
                    self.row.phase = phase;
                }
                self.publish();
                Err(failure)
            }
        }
    }

    async fn settle_async(&mut self, outcome: Result<(), Stopped>) -> Result<(), Failure> {
        let result = self.settle(outcome);
        if result.is_err() {
            self.save().await?;
        }
        result
    }

    /// What exists of this VM now.
    pub(crate) async fn facts(&self) -> Result<VmFacts, Failure> {
        let all = self.inner.ports.helper.facts().await?;
        let mut facts = all
            .into_iter()
            .find(|(vm, _)| *vm == self.row.id)
            .map(|(_, f)| f)
            .unwrap_or_default();
        facts.folder = self.inner.ports.drives.list().await?.contains(&self.row.id);
        // What a VMM of an earlier boot of the host left in the folder: nobody else tells of it.
        let same_boot = self.row.boot_id.as_ref() == Some(&self.inner.ports.clock.boot_id());
        facts.vmm.remains |= facts.folder && !same_boot;
        Ok(facts)
    }

    /// Notes a failure: the VM stays for inspection.
    pub(crate) async fn fail(&mut self, failure: Failure) -> Failure {
        self.row.failure = write_failure(&failure);
        let event = if self.row.phase == Phase::Running {
            Event::VmmDied
        } else {
            Event::StepFailed
        };
        if let Err(problem) = self.enter(event).await {
            tracing::error!(vm = %self.row.id, %problem, "a failure could not be stored");
            self.forget_seen();
        }
        failure
    }

    /// Moves to the phase that follows `event`, durably, and publishes it.
    pub(crate) async fn enter(&mut self, event: Event) -> Result<(), Failure> {
        self.row.phase = step_phase(self.row.phase, event).map_err(|rejected| {
            Failure::because(ErrorCode::VmBusy, "the VM cannot do that now", &rejected)
        })?;
        self.save().await
    }

    pub(crate) async fn save(&mut self) -> Result<(), Failure> {
        let saved = self.save_row().await;
        let saved = match saved {
            Err(failure) if failure.code == ErrorCode::DiskFull => {
                // A stop and a delete are never refused.
                self.inner
                    .store(|store| {
                        store.use_reserve();
                        Ok(())
                    })
                    .await?;
                self.save_row().await
            }
            saved => saved,
        };
        saved?;
        self.publish();
        Ok(())
    }

    async fn save_row(&self) -> Result<(), Failure> {
        let row = self.row.clone();
        self.inner.store(move |store| store.save_vm(&row)).await
    }

    fn publish(&self) {
        self.view.send_modify(|view| {
            let now = VmView::of(&self.row);
            *view = if now.phase == Phase::Failed && view.phase != Phase::Failed {
                // In one step: nobody sees it failed and its VMM alive.
                now
            } else {
                VmView {
                    readiness: view.readiness,
                    vmm_pid: view.vmm_pid,
                    paused: view.paused.filter(|_| can_be_paused(self.row.phase)),
                    ..now
                }
            };
        });
    }

    /// What was seen of its processes counts no more.
    fn forget_seen(&self) {
        self.view.send_modify(|view| {
            view.readiness = None;
            view.vmm_pid = None;
            view.paused = None;
        });
    }
}

fn in_stage(failed: FailedStep) -> Failure {
    let FailedStep { step, mut failure } = failed;
    failure.causes.insert(0, failure.message.clone());
    failure.message = format!("stage `{}` failed", step.title());
    failure
}

pub(crate) fn preempted() -> Failure {
    Failure::new(
        ErrorCode::Cancelled,
        "a stop, restart, kill or delete came in between",
    )
}

pub(crate) fn reboots_on() -> Failure {
    let what = format!("the guest rebooted more than {MAX_REBOOTS} times in {REBOOT_WINDOW:?}");
    Failure::new(ErrorCode::BootFailed, what).hint("`banger vm logs` shows why it does")
}

fn backend_lost() -> Failure {
    Failure::new(
        ErrorCode::VmmFailed,
        "the VM's vsock backend ended: nobody can reach the agent any more",
    )
    .hint("stop and start the VM")
}

/// What the guest said last, as a cause.
pub(crate) fn console_cause(tail: &[String]) -> Option<String> {
    (!tail.is_empty()).then(|| format!("the console ends with: {}", tail.join(" | ")))
}

/// A VMM that ended without a farewell from the guest.
pub(crate) fn died(exit: &ExitFacts) -> Failure {
    if exit.backend_lost {
        return backend_lost();
    }
    let mut failure = Failure::new(
        ErrorCode::VmmFailed,
        "the VMM ended without a farewell from the guest",
    );
    if !exit.vmm_tail.is_empty() {
        let said = exit.vmm_tail.join(" | ");
        failure
            .causes
            .push(format!("the VMM's log ends with: {said}"));
    }
    failure.causes.extend(console_cause(&exit.console_tail));
    failure.hint("`banger vm logs` shows the whole console")
}
