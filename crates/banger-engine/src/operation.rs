//! Operations: what takes long enough to be watched, with its stages and their times.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use banger_core::{OpId, VmId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::ports::{Failure, GuestState, Progress};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpKind {
    /// Creates (and starts) a VM.
    CreateVm,
    /// Starts a VM.
    StartVm,
    /// Stops a VM.
    StopVm,
    /// Stops a VM and starts it again.
    RestartVm,
    /// Ends a VM's VMM by a signal.
    KillVm,
    /// Changes a VM's sizes or NAT.
    SetVm,
    /// Deletes a VM.
    DeleteVm,
    /// Builds an image.
    BuildImage,
    /// Pulls an image.
    PullImage,
    /// Imports a kernel.
    ImportKernel,
    /// Register an image.
    RegisterImage,
    /// Copy a registered image into the store.
    PromoteImage,
}

/// How far an operation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpState {
    /// It goes on.
    Running,
    /// Done.
    Succeeded,
    /// It failed.
    Failed(Failure),
    /// It was cancelled.
    Cancelled,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageStatus {
    /// It goes on.
    Running,
    /// Done.
    Done,
    /// Failed.
    Failed,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageView {
    /// Stable key.
    pub key: String,
    /// For people.
    pub title: String,
    /// How far.
    pub status: StageStatus,
    /// When it began.
    pub began: Instant,
    /// Milliseconds it took, once it has ended.
    pub took_ms: Option<u64>,
    /// The latest line of its progress.
    pub detail: Option<String>,
}

impl StageView {
    /// Milliseconds it took, or has taken.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        let until_now = || u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.took_ms.unwrap_or_else(until_now)
    }
}

/// What a start leads to before it has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// How far the guest is waited for; None: not at all.
    pub wait: Option<GuestState>,
    /// For how long; whoever goes on with it begins anew.
    pub deadline: Duration,
}

/// An operation as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationView {
    /// Which.
    pub id: OpId,
    /// What it does.
    pub kind: OpKind,
    /// Name of the VM, image or kernel.
    pub subject: String,
    /// The VM it is about.
    pub vm: Option<VmId>,
    /// Of one that starts a VM.
    pub goal: Option<Goal>,
    /// How far.
    pub state: OpState,
    /// The stages so far.
    pub stages: Vec<StageView>,
}

/// A running operation: written by whoever does it, watched by clients.
#[derive(Debug)]
pub(crate) struct Operation {
    view: watch::Sender<OperationView>,
    cancelled: AtomicBool,
}

impl Operation {
    pub(crate) fn new(
        id: OpId,
        kind: OpKind,
        subject: String,
        vm: Option<VmId>,
        goal: Option<Goal>,
    ) -> Arc<Self> {
        Self::again(OperationView {
            id,
            kind,
            subject,
            vm,
            goal,
            state: OpState::Running,
            stages: vec![],
        })
    }

    /// One that goes on where an earlier daemon left it.
    pub(crate) fn again(view: OperationView) -> Arc<Self> {
        Arc::new(Self {
            view: watch::channel(view).0,
            cancelled: AtomicBool::new(false),
        })
    }

    pub(crate) fn view(&self) -> OperationView {
        self.view.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<OperationView> {
        self.view.subscribe()
    }

    fn goes_on(&self) -> bool {
        self.view.borrow().state == OpState::Running
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Ends it; only the first end counts. A cancelled one ends as cancelled, however it went.
    pub(crate) fn finish(&self, result: Result<(), Failure>) {
        let state = match result {
            _ if self.is_cancelled() => OpState::Cancelled,
            Ok(()) => OpState::Succeeded,
            Err(failure) => OpState::Failed(failure),
        };
        self.view.send_if_modified(|view| {
            let is_first = view.state == OpState::Running;
            if is_first {
                let failed = state != OpState::Succeeded;
                for stage in view
                    .stages
                    .iter_mut()
                    .filter(|s| s.status == StageStatus::Running)
                {
                    end(
                        stage,
                        if failed {
                            StageStatus::Failed
                        } else {
                            StageStatus::Done
                        },
                    );
                }
                view.state = state;
            }
            is_first
        });
    }

    fn edit_stage(&self, key: &str, edit: impl FnOnce(&mut StageView)) {
        self.view.send_modify(|view| {
            if let Some(stage) = view.stages.iter_mut().rfind(|stage| stage.key == key) {
                edit(stage);
            }
        });
    }
}

fn end(stage: &mut StageView, status: StageStatus) {
    stage.took_ms = Some(stage.elapsed_ms());
    stage.status = status;
}

/// What a stage's work sees of its operation.
#[derive(Debug, Clone)]
pub struct TaskContext {
    operation: Arc<Operation>,
    key: Arc<Mutex<String>>,
    /// The part of the stage that goes on, where it has parts.
    part: Arc<Mutex<Option<String>>>,
}

impl TaskContext {
    pub(crate) fn new(operation: Arc<Operation>) -> Self {
        Self {
            operation,
            key: Arc::default(),
            part: Arc::default(),
        }
    }

    /// Begins a stage. Lines of progress go to it until another begins.
    pub fn begin(&self, key: &str, title: &str) {
        key.clone_into(&mut self.key.lock().unwrap_or_else(PoisonError::into_inner));
        self.add(key, title);
    }

    fn add(&self, key: &str, title: &str) {
        let stage = StageView {
            key: key.to_owned(),
            title: title.to_owned(),
            status: StageStatus::Running,
            began: Instant::now(),
            took_ms: None,
            detail: None,
        };
        self.operation
            .view
            .send_modify(|view| view.stages.push(stage));
    }

    /// Ends a stage, and the part of it that still goes on.
    pub fn end(&self, key: &str, succeeded: bool) {
        let status = if succeeded {
            StageStatus::Done
        } else {
            StageStatus::Failed
        };
        self.end_part(status);
        self.operation.edit_stage(key, |stage| end(stage, status));
    }

    fn end_part(&self, status: StageStatus) {
        let part = self
            .part
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(part) = part {
            self.operation.edit_stage(&part, |stage| end(stage, status));
        }
    }

    /// The same operation, with its lines going to another stage.
    #[must_use]
    pub(crate) fn for_stage(&self, key: &str) -> Self {
        Self {
            operation: Arc::clone(&self.operation),
            key: Arc::new(Mutex::new(key.to_owned())),
            part: Arc::default(),
        }
    }
}

impl Progress for TaskContext {
    fn line(&self, text: &str) {
        let locked =
            |value: &Mutex<String>| value.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let part = self.part.lock().unwrap_or_else(PoisonError::into_inner);
        let key = part.clone().unwrap_or_else(|| locked(&self.key));
        drop(part);
        self.operation
            .edit_stage(&key, |stage| stage.detail = Some(text.to_owned()));
    }

    fn part(&self, title: &str) {
        self.end_part(StageStatus::Done);
        let stage = self
            .key
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let key = format!("{stage}.{}", title.replace(' ', "_"));
        self.add(&key, title);
        *self.part.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    fn cancelled(&self) -> bool {
        self.operation.is_cancelled()
    }
}

/// The operation that works on a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtWork {
    /// Which.
    pub id: OpId,
    /// What it does.
    pub kind: OpKind,
}

/// The operations of this daemon's life: all that go on, and the latest that have ended.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    /// In the order in which they began.
    known: Mutex<Vec<(OpId, Arc<Operation>)>>,
}

impl Operations {
    /// How many are remembered.
    const KEPT: usize = 500;

    pub(crate) fn add(&self, operation: &Arc<Operation>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= Self::KEPT {
            known.retain(|(_, operation)| operation.goes_on());
        }
        let id = operation.view.borrow().id.clone();
        known.push((id, Arc::clone(operation)));
    }

    pub(crate) fn get(&self, id: &OpId) -> Option<Arc<Operation>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latest = known.iter().rev();
        latest
            .find(|(known, _)| known == id)
            .map(|(_, operation)| Arc::clone(operation))
    }

    /// What works on each VM. Of several that go on it is the first: the others wait for it, or have come to end it.
    pub(crate) fn at_work(&self) -> HashMap<VmId, AtWork> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = HashMap::new();
        for (id, operation) in known.iter() {
            let view = operation.view.borrow();
            if let (OpState::Running, Some(vm)) = (&view.state, &view.vm)
                && !all.contains_key(vm)
            {
                let (id, kind) = (id.clone(), view.kind);
                all.insert(vm.clone(), AtWork { id, kind });
            }
        }
        all
    }
}
