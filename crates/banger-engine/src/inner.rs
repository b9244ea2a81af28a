//! What every part of the engine shares.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use banger_core::{ErrorCode, KillSignal, OpId, Phase, SpecChange, Turn, Verb, VmId, VmSpec, turn};
use banger_store::{Store, StoreError, UnreadableVm};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::database::store_failure;
use crate::engine::{EngineConfig, Ports};
use crate::helper_wait::HelperWanted;
use crate::operation::{Goal, OpKind, OpState, Operation, OperationView, Operations};
use crate::pausing::Pausing;
use crate::ports::{Failure, NamedGuest, VmFacts};
use crate::view::VmView;

/// What an actor is asked for.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Make its drives; start it when `start`.
    Create {
        start: bool,
        goal: Goal,
        op: Arc<Operation>,
    },
    /// Start it.
    Start { goal: Goal, op: Arc<Operation> },
    /// Stop it, by force after `grace`.
    Stop {
        grace: std::time::Duration,
        op: Arc<Operation>,
    },
    /// Stop it and start it again.
    Restart {
        grace: std::time::Duration,
        goal: Goal,
        op: Arc<Operation>,
    },
    /// End its VMM by a signal.
    Kill {
        signal: KillSignal,
        /// What whoever asked saw.
        asked_in: Phase,
        op: Arc<Operation>,
    },
    /// Change its specification.
    Set {
        change: SpecChange,
        op: Arc<Operation>,
    },
    /// Remove it; `only_stopped`: unless it runs.
    Delete {
        only_stopped: bool,
        op: Arc<Operation>,
    },
    /// Take up where an earlier daemon left off.
    Recover { facts: VmFacts },
}

impl Wish {
    /// What it asks of a VM that is as `now` says. None: it comes from the engine itself.
    pub(crate) fn verb(&self, now: &VmSpec) -> Option<Verb> {
        Some(match self {
            Self::Create { .. } | Self::Recover { .. } => return None,
            Self::Start { .. } => Verb::Start,
            Self::Stop { .. } => Verb::Stop,
            Self::Restart { .. } => Verb::Restart,
            Self::Kill { .. } => Verb::Kill,
            Self::Set { change, .. } => match change.apply(now) {
                Ok(then) if SpecChange::needs_stop(now, &then) => Verb::SetSizes,
                // What is invalid is told before any phase matters.
                Ok(_) | Err(_) => Verb::SetNat,
            },
            Self::Delete {
                only_stopped: true, ..
            } => Verb::Prune,
            Self::Delete {
                only_stopped: false,
                ..
            } => Verb::Delete,
        })
    }

    /// Whether it ends what goes on in that phase.
    pub(crate) fn interrupts(&self, phase: Phase, now: &VmSpec) -> bool {
        let verb = self.verb(now);
        let is_hasty = match self {
            Self::Stop { grace, .. } | Self::Restart { grace, .. } => grace.is_zero(),
            _ => false,
        };
        verb.is_some_and(|verb| turn(phase, verb) == Turn::Interrupts)
            || (is_hasty && phase == Phase::Stopping)
    }

    /// Whether it is to end a VM that was not stopped when that was asked.
    pub(crate) fn came_to_a_vm_that_ran(&self) -> bool {
        matches!(self, Self::Kill { asked_in, .. } if *asked_in != Phase::Stopped)
    }

    pub(crate) fn operation(&self) -> Option<&Arc<Operation>> {
        match self {
            Self::Create { op, .. }
            | Self::Start { op, .. }
            | Self::Stop { op, .. }
            | Self::Restart { op, .. }
            | Self::Kill { op, .. }
            | Self::Set { op, .. }
            | Self::Delete { op, .. } => Some(op),
            Self::Recover { .. } => None,
        }
    }
}

/// How the rest of the engine reaches a VM's actor.
#[derive(Debug)]
pub(crate) struct VmHandle {
    pub(crate) view: watch::Receiver<VmView>,
    /// Written by the actor; by the watch of the disk's room only whether it is paused.
    pub(crate) written: Arc<watch::Sender<VmView>>,
    pub(crate) wishes: mpsc::UnboundedSender<Wish>,
}

/// Shared by the engine's handle and the actors.
pub(crate) struct Inner {
    pub(crate) ports: Ports,
    pub(crate) store: Arc<Store>,
    pub(crate) config: EngineConfig,
    pub(crate) vms: RwLock<BTreeMap<VmId, Arc<VmHandle>>>,
    /// Held from where a VM is stored until it has an actor and its create an operation: whoever meets its name in
    /// the database finds both.
    pub(crate) creating: tokio::sync::Mutex<()>,
    pub(crate) operations: Operations,
    /// Operations that an earlier daemon left in the middle, for the actors that go on with them.
    pub(crate) resumed: Mutex<Vec<Arc<Operation>>>,
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) pausing: Pausing,
    pub(crate) helper_wanted: HelperWanted,
    /// What is stored and cannot be read.
    pub(crate) unreadable: Vec<UnreadableVm>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Every VM, by id.
    pub(crate) fn views(&self) -> Vec<VmView> {
        let vms = self.vms.read().unwrap_or_else(PoisonError::into_inner);
        vms.values()
            .map(|handle| handle.view.borrow().clone())
            .collect()
    }

    pub(crate) fn handle(&self, vm: &VmId) -> Option<Arc<VmHandle>> {
        self.vms
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(vm)
            .cloned()
    }

    pub(crate) fn forget(&self, vm: &VmId) {
        self.vms
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(vm);
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(task));
    }

    /// Runs a query on a thread that may block.
    pub(crate) async fn store<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = Arc::clone(&self.store);
        ask(move || query(&store)).await
    }

    pub(crate) fn begin(
        self: &Arc<Self>,
        kind: OpKind,
        subject: String,
        vm: Option<VmId>,
        goal: Option<Goal>,
    ) -> Arc<Operation> {
        let operation = Operation::new(
            OpId::from_entropy(self.ports.clock.entropy()),
            kind,
            subject,
            vm,
            goal,
        );
        self.follow(&operation);
        operation
    }

    /// Remembers an operation, and keeps how far it is where a later daemon finds it.
    pub(crate) fn follow(self: &Arc<Self>, operation: &Arc<Operation>) {
        self.operations.add(operation);
        let mut watch = operation.watch();
        let inner = Arc::clone(self);
        self.spawn(async move {
            let mut kept = None;
            loop {
                let view = watch.borrow_and_update().clone();
                if view.state != OpState::Running {
                    return;
                }
                // Lines of progress are not worth a write.
                let stages: Vec<_> = view.stages.iter().map(|stage| stage.status).collect();
                if kept.as_ref() != Some(&stages) {
                    kept = Some(stages);
                    inner.keep(&view).await;
                }
                if watch.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    async fn keep(&self, view: &OperationView) {
        let row = crate::stored::write(view);
        if let Err(failure) = self.store(move |store| store.save_operation(&row)).await {
            tracing::warn!(%failure, operation = %view.id, "how far it is could not be stored");
        }
    }

    /// Ends an operation and keeps how it ended.
    pub(crate) async fn finish(&self, operation: &Operation, result: Result<(), Failure>) {
        operation.finish(result);
        self.keep(&operation.view()).await;
    }

    /// Tells the name service who is there.
    pub(crate) async fn publish_names(&self) {
        let names = self
            .views()
            .into_iter()
            .map(|view| NamedGuest {
                name: view.name,
                address: view.address,
                nat: view.spec.nat,
            })
            .collect();
        self.ports.names.publish(names).await;
    }
}

/// Runs a query on a thread that may block.
pub(crate) async fn ask<T: Send + 'static>(
    query: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Failure> {
    let what = "the database could not be used";
    match tokio::task::spawn_blocking(query).await {
        Ok(result) => result.map_err(|error| store_failure(what, &error)),
        Err(error) => Err(Failure::because(ErrorCode::Internal, what, &error)),
    }
}
