//! What is asked of a VM beyond start, stop and delete: restart, kill, and other sizes.

use std::sync::Arc;
use std::time::Duration;

use banger_core::{ErrorCode, Event, Intent, KillSignal, Phase, SpecChange, VmSpec};
use banger_store::VmRow;

use crate::actor::{Actor, preempted};
use crate::engine::EngineConfig;
use crate::execute::{Findings, run_group};
use crate::operation::{Goal, Operation, TaskContext};
use crate::plan::plan_set;
use crate::ports::Failure;
use crate::step::Step;

/// How long a VMM may take to end when it is asked to.
const TERM_PATIENCE: Duration = Duration::from_secs(10);

/// The specification after a change that this host can give.
pub(crate) fn changed_spec(
    config: &EngineConfig,
    now: &VmSpec,
    change: SpecChange,
) -> Result<VmSpec, Failure> {
    let invalid =
        |error: &dyn std::error::Error| Failure::new(ErrorCode::InvalidArgument, error.to_string());
    let then = change.apply(now).map_err(|error| invalid(&error))?;
    // What stays was good once: a host that has shrunk does not forbid other changes.
    if SpecChange::needs_stop(now, &then) {
        then.check(config.host_cpus, config.host_memory)
            .map_err(|error| invalid(&error))?;
    }
    Ok(then)
}

impl Actor {
    pub(crate) async fn restart(
        &mut self,
        grace: Duration,
        goal: Goal,
        op: &Arc<Operation>,
    ) -> Result<(), Failure> {
        // Not stopped for a start that would be refused.
        self.inner.has_room().await?;
        // Whoever takes up from here starts it again.
        self.row.intent = Intent::Running;
        self.bring_down(grace, Some(op)).await?;
        if self.is_preempted() {
            return Err(preempted());
        }
        self.start(goal, op, None).await
    }

    pub(crate) async fn kill(
        &mut self,
        signal: KillSignal,
        op: &Arc<Operation>,
    ) -> Result<(), Failure> {
        self.row.intent = Intent::Stopped;
        if self.row.phase == Phase::Stopped {
            return self.save().await;
        }
        if !matches!(self.row.phase, Phase::Provisioning | Phase::Stopping) {
            self.enter(Event::StopAccepted).await?;
        }
        let helper = Arc::clone(&self.inner.ports.helper);
        // A VMM that has ended meanwhile cannot be signalled; what is left of it is removed below.
        let signalled = helper.signal(&self.row.id, signal).await;
        if let Err(failure) = &signalled {
            tracing::info!(vm = %self.row.id, %failure, "nothing was signalled");
        }
        if signal == KillSignal::Term && signalled.is_ok() {
            self.inner.spare(&self.row.id).await;
            let ended = helper.wait_exit(&self.row.id);
            // One that does not listen is ended by force.
            let _ = tokio::time::timeout(TERM_PATIENCE, ended).await;
        }
        self.bring_down(Duration::ZERO, Some(op)).await
    }

    pub(crate) async fn set(
        &mut self,
        change: SpecChange,
        op: &Arc<Operation>,
    ) -> Result<(), Failure> {
        let now = self.row.spec.clone();
        let then = changed_spec(&self.inner.config, &now, change)?;
        if then == now {
            return Ok(());
        }
        let facts = self.facts().await?;
        let context = TaskContext::new(Arc::clone(op));
        let plan = plan_set(&facts, &now, &then);
        let row = VmRow {
            spec: then.clone(),
            ..self.row.clone()
        };
        // A disk does not shrink again, so its growth is announced: what a daemon that dies leaves undone, the next
        // start does. The rest of what is stored is what was done.
        let announced = VmSpec {
            disk_size: then.disk_size,
            ..now.clone()
        };
        if announced != now {
            self.store_spec(announced).await?;
        }
        let has = |step| plan.iter().flatten().any(|planned| *planned == step);
        let (mut grows, switches_nat) = (has(Step::GrowWorkDisk), has(Step::SetNat));
        for group in plan {
            let findings = Findings::default();
            let done = run_group(&self.inner, &row, &group, &findings, Some(&context)).await;
            if let Err(failed) = done {
                if grows && let Err(failure) = self.store_spec(now).await {
                    tracing::warn!(vm = %self.row.id, %failure, "the next start will try to grow the disk");
                }
                return Err(failed.failure);
            }
            grows &= !group.contains(&Step::GrowWorkDisk);
        }
        if let Err(failure) = self.store_spec(then).await {
            if switches_nat {
                self.set_nat_as_stored().await;
            }
            return Err(failure);
        }
        // Which names the guest is told depends on its NAT.
        self.inner.publish_names().await;
        Ok(())
    }

    /// Stores another specification; on a failure the row keeps the one it has.
    async fn store_spec(&mut self, spec: VmSpec) -> Result<(), Failure> {
        let before = std::mem::replace(&mut self.row.spec, spec);
        let saved = self.save().await;
        if saved.is_err() {
            self.row.spec = before;
        }
        saved
    }

    /// Brings the tap in line with what is stored.
    pub(crate) async fn set_nat_as_stored(&self) {
        let nat = self.row.spec.nat;
        if let Err(failure) = self.inner.ports.helper.set_nat(&self.row.id, nat).await {
            tracing::warn!(vm = %self.row.id, %failure, "NAT is not as it is stored");
        }
    }
}
