//! What every part of the engine shares.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use banger_core::{ErrorCode, OpId, VmId};
use banger_store::{OperationRow, Store, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::engine::{EngineConfig, Ports};
use crate::operation::{OpKind, Operation, Operations};
use crate::ports::{Failure, GuestState, VmFacts};
use crate::view::VmView;

/// What an actor is asked for.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Make its drives; start it when `start`.
    Create {
        start: bool,
        wait: Option<GuestState>,
        deadline: std::time::Duration,
        op: Arc<Operation>,
    },
    /// Start it.
    Start {
        wait: Option<GuestState>,
        deadline: std::time::Duration,
        op: Arc<Operation>,
    },
    /// Stop it, by force after `grace`.
    Stop {
        grace: std::time::Duration,
        op: Arc<Operation>,
    },
    /// Remove it.
    Delete { op: Arc<Operation> },
    /// Take up where an earlier daemon left off.
    Recover { facts: VmFacts },
}

impl Wish {
    /// Whether it ends what is going on.
    pub(crate) const fn is_urgent(&self) -> bool {
        matches!(self, Self::Stop { .. } | Self::Delete { .. })
    }

    pub(crate) fn operation(&self) -> Option<&Arc<Operation>> {
        match self {
            Self::Create { op, .. }
            | Self::Start { op, .. }
            | Self::Stop { op, .. }
            | Self::Delete { op } => Some(op),
            Self::Recover { .. } => None,
        }
    }
}

/// How the rest of the engine reaches a VM's actor.
#[derive(Debug)]
pub(crate) struct VmHandle {
    pub(crate) view: watch::Receiver<VmView>,
    pub(crate) wishes: mpsc::UnboundedSender<Wish>,
}

/// Shared by the engine's handle and the actors.
pub(crate) struct Inner {
    pub(crate) ports: Ports,
    pub(crate) store: Arc<Store>,
    pub(crate) config: EngineConfig,
    pub(crate) vms: RwLock<BTreeMap<VmId, Arc<VmHandle>>>,
    pub(crate) operations: Operations,
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
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
        let broken = |error: &dyn std::error::Error| {
            Failure::because(ErrorCode::Internal, "the database could not be used", error)
        };
        match tokio::task::spawn_blocking(move || query(&store)).await {
            Ok(result) => result.map_err(|error| broken(&error)),
            Err(error) => Err(broken(&error)),
        }
    }

    pub(crate) fn begin(&self, kind: OpKind, subject: String, vm: Option<VmId>) -> Arc<Operation> {
        let operation = Operation::new(
            OpId::from_entropy(self.ports.clock.entropy()),
            kind,
            subject,
            vm,
        );
        self.operations.add(&operation);
        operation
    }

    /// Ends an operation and keeps how it ended.
    pub(crate) async fn finish(&self, operation: &Operation, result: Result<(), Failure>) {
        operation.finish(result);
        let view = operation.view();
        let row = OperationRow {
            id: view.id.clone(),
            is_final: true,
            view: crate::engine::stored(&view),
        };
        if let Err(failure) = self.store(move |store| store.save_operation(&row)).await {
            tracing::warn!(%failure, "an operation's end could not be stored");
        }
    }

    /// Tells the name service who is there.
    pub(crate) async fn publish_names(&self) {
        let names = self
            .views()
            .into_iter()
            .map(|view| (view.name, view.address))
            .collect();
        self.ports.names.publish(names).await;
    }
}
