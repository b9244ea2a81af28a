//! The engine as the daemon uses it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use banger_core::{
    ByteSize, ErrorCode, ImageName, Intent, KernelName, KillSignal, MemoryMib, OpId, Phase,
    SpecChange, SpecOrigins, VmId, VmName, VmSpec, nearest,
};
use banger_store::{InsertVmError, NewVm, Store, VmRow};
use tokio::sync::{mpsc, watch};

use crate::actor::Actor;
use crate::change::changed_spec;
use crate::database::{store_failure, unreadable};
use crate::helper_wait::HelperWanted;
use crate::inner::{Inner, VmHandle, Wish, ask};
use crate::names;
use crate::namesake;
use crate::operation::{
    AtWork, Goal, OpKind, OpState, Operation, OperationView, Operations, TaskContext,
};
use crate::pausing::{Pausing, watch_space};
use crate::planted::{Planted, uproot_unknown};
use crate::ports::{
    Clock, Drives, Failure, GuestState, Guests, Images, Kernels, Names, RootHelper, Space,
};
use crate::reconcile::{ReconcileReport, reconcile};
use crate::stored;
use crate::view::VmView;

/// The world, as far as the engine needs it.
#[derive(Clone)]
pub struct Ports {
    /// The image store.
    pub images: Arc<dyn Images>,
    /// The kernel store.
    pub kernels: Arc<dyn Kernels>,
    /// The VMs' files.
    pub drives: Arc<dyn Drives>,
    /// The privileged helper.
    pub helper: Arc<dyn RootHelper>,
    /// The agents in the guests.
    pub guests: Arc<dyn Guests>,
    /// The name service.
    pub names: Arc<dyn Names>,
    /// Room on the VMs' file system.
    pub space: Arc<dyn Space>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// What is fixed while the engine lives.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The host's address on the bridge.
    pub bridge_ip: Ipv4Addr,
    /// First and last address that a guest may have.
    pub guest_addresses: (Ipv4Addr, Ipv4Addr),
    /// Processors of the host.
    pub host_cpus: u16,
    /// Memory of the host.
    pub host_memory: MemoryMib,
    /// VMs are paused while less than this is free on their file system; 0: never.
    pub disk_reserve: ByteSize,
    /// How long a boot may take where nobody says otherwise.
    pub boot_deadline: Duration,
    /// How long a helper that is away is waited for by what a guest began by itself.
    pub helper_patience: Duration,
}

/// A VM to be made.
#[derive(Debug, Clone)]
pub struct CreateVm {
    /// Its name; without one, a readable one that is free.
    pub name: Option<VmName>,
    /// Its image.
    pub image: ImageName,
    /// Its kernel; without one, the image's or the default.
    pub kernel: Option<KernelName>,
    /// Its sizes.
    pub spec: VmSpec,
    /// Where they came from.
    pub origins: SpecOrigins,
    /// Whether it is started.
    pub start: bool,
    /// Whether it goes away with its first command.
    pub ephemeral: bool,
    /// A small file system that its work disk is made of, instead of the image's work seed. Not needed any more when
    /// the create has begun.
    pub work_seed: Option<PathBuf>,
    /// How far the guest is waited for.
    pub wait: Option<GuestState>,
    /// Deadline of the boot.
    pub timeout: Option<Duration>,
}

/// The engine. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

impl Engine {
    /// Loads what is stored and starts an actor for each VM. Nothing on the host is touched before
    /// [`Engine::reconcile`], but work disks for VMs that were never stored: they go.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open(ports: Ports, store: Store, config: EngineConfig) -> Result<Self, Failure> {
        let store = Arc::new(store);
        let stored = {
            let store = Arc::clone(&store);
            ask(move || store.stored_vms()).await?
        };
        for vm in &stored.unreadable {
            tracing::error!(name = vm.name, why = vm.why, "a VM cannot be read");
        }
        let inner = Arc::new(Inner {
            ports,
            store,
            config,
            vms: std::sync::RwLock::default(),
            creating: tokio::sync::Mutex::default(),
            operations: Operations::default(),
            resumed: std::sync::Mutex::default(),
            tasks: std::sync::Mutex::default(),
            pausing: Pausing::default(),
            helper_wanted: HelperWanted::default(),
            unreadable: stored.unreadable,
        });
        let engine = Self { inner };
        let mut found = BTreeSet::new();
        for row in stored.readable {
            found.insert(row.id.clone());
            engine.add_actor(row, false);
        }
        if let Err(failure) = uproot_unknown(&engine.inner).await {
            tracing::warn!(%failure, "work disks that no VM needs could not be removed");
        }
        engine.inner.take_up_operations().await?;
        engine.inner.publish_names().await;
        engine
            .inner
            .spawn(watch_space(Arc::clone(&engine.inner), found));
        Ok(engine)
    }

    fn add_actor(&self, row: VmRow, taken_up: bool) -> Arc<VmHandle> {
        let (view, seen) = watch::channel(VmView::of(&row));
        let (wishes, heard) = mpsc::unbounded_channel();
        let view = Arc::new(view);
        let handle = Arc::new(VmHandle {
            view: seen,
            written: Arc::clone(&view),
            wishes,
        });
        let mut vms = self
            .inner
            .vms
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        vms.insert(row.id.clone(), Arc::clone(&handle));
        drop(vms);
        let actor = Actor {
            inner: Arc::clone(&self.inner),
            row,
            view,
            wishes: heard,
            pending: VecDeque::new(),
            watching: false,
            reboots: vec![],
            taken_up,
        };
        self.inner.spawn(actor.run());
        handle
    }

    /// Makes what exists and what is wanted agree.
    ///
    /// # Errors
    /// The helper does not answer: nothing was done, and it should be called again when it does.
    pub async fn reconcile(&self) -> Result<ReconcileReport, Failure> {
        reconcile(&self.inner).await
    }

    /// Whether something waits for the helper: a VM that it should see to, or whose end nobody sees.
    #[must_use]
    pub fn wants_helper(&self) -> bool {
        self.inner.helper_wanted.is_wanted()
    }

    /// What is wrong with the database, for people. Reads all of it.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub async fn database_damage(&self) -> Result<Vec<String>, Failure> {
        self.inner.store(Store::damage).await
    }

    /// Ends every actor where it stands. VMs go on.
    pub fn abort(&self) {
        let mut tasks = self
            .inner
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for task in tasks.drain(..) {
            task.abort();
        }
    }

    /// Every VM, by name.
    #[must_use]
    pub fn list(&self) -> Vec<VmView> {
        let mut views = self.inner.views();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// A VM by name, id, or an unambiguous prefix of either.
    ///
    /// # Errors
    /// No such VM (with the nearest name), or more than one.
    pub fn resolve(&self, reference: &str) -> Result<VmView, Failure> {
        let views = self.inner.views();
        let exact =
            |view: &&VmView| view.name.as_str() == reference || view.id.as_str() == reference;
        if let Some(view) = views.iter().find(exact) {
            return Ok(view.clone());
        }
        let starts = |view: &&VmView| {
            view.name.as_str().starts_with(reference) || view.id.as_str().starts_with(reference)
        };
        let matches: Vec<&VmView> = views
            .iter()
            .filter(starts)
            .filter(|_| !reference.is_empty())
            .collect();
        let mut damaged = self.inner.unreadable.iter();
        if let Some(vm) = damaged.find(|vm| vm.name == reference) {
            return Err(unreadable(vm));
        }
        let shown: String = reference
            .chars()
            .take(80)
            .flat_map(char::escape_default)
            .collect();
        match matches.as_slice() {
            [view] => Ok((*view).clone()),
            [] => {
                let failure =
                    Failure::new(ErrorCode::VmNotFound, format!("there is no VM `{shown}`"));
                Err(
                    match nearest(reference, views.iter().map(|view| view.name.as_str())) {
                        Some(name) => failure.hint(format!("did you mean `{name}`?")),
                        None => failure.hint("`banger vm list` shows all VMs"),
                    },
                )
            }
            several => {
                let names: Vec<&str> = several
                    .iter()
                    .take(5)
                    .map(|view| view.name.as_str())
                    .collect();
                let what = format!("`{shown}` fits more than one VM: {}", names.join(", "));
                Err(Failure::new(ErrorCode::Ambiguous, what))
            }
        }
    }

    /// A VM by id.
    #[must_use]
    pub fn get(&self, vm: &VmId) -> Option<VmView> {
        self.inner
            .handle(vm)
            .map(|handle| handle.view.borrow().clone())
    }

    /// The operation that works on each VM, where there is one.
    #[must_use]
    pub fn at_work(&self) -> HashMap<VmId, AtWork> {
        self.inner.operations.at_work()
    }

    /// A VM's view, as it changes.
    #[must_use]
    pub fn watch_vm(&self, vm: &VmId) -> Option<watch::Receiver<VmView>> {
        self.inner.handle(vm).map(|handle| handle.view.clone())
    }

    /// Stores a new VM and begins to make it.
    ///
    /// # Errors
    /// A size out of range, a taken name, or no free address: nothing was stored.
    pub async fn create(&self, request: CreateVm) -> Result<OperationView, Failure> {
        let config = &self.inner.config;
        request
            .spec
            .check(config.host_cpus, config.host_memory)
            .map_err(|error| Failure::new(ErrorCode::InvalidArgument, error.to_string()))?;
        let clock = &self.inner.ports.clock;
        let taken = self.list();
        if let Some(name) = &request.name
            && taken.iter().any(|view| view.name == *name)
        {
            // Before a disk is made for nothing.
            return Err(self.name_taken(name));
        }
        let free = || {
            names::readable(clock.entropy(), |name| {
                taken.iter().any(|view| view.name == *name)
            })
        };
        let row = VmRow {
            id: VmId::from_entropy(clock.entropy()),
            name: request.name.clone().unwrap_or_else(free),
            address: Ipv4Addr::UNSPECIFIED,
            phase: Phase::Provisioning,
            intent: if request.start {
                Intent::Running
            } else {
                Intent::Stopped
            },
            spec: request.spec.clone(),
            origins: request.origins,
            image: request.image.clone(),
            image_digest: None,
            kernel: request.kernel.clone(),
            ephemeral: request.ephemeral,
            created_at: clock.now(),
            started_at: None,
            boot_id: Some(clock.boot_id()),
            failure: None,
        };
        let new = NewVm {
            row,
            addresses: config.guest_addresses,
            reserved: config.bridge_ip,
        };
        let planted = Planted::plant(&self.inner, &new.row, request.work_seed.as_deref()).await?;
        let creating = self.inner.creating.lock().await;
        let row = self.insert(new).await?;
        planted.keep();
        let start = request.start;
        let goal = self.goal(request.wait, request.timeout);
        let (name, vm) = (row.name.to_string(), row.id.clone());
        let op = self
            .inner
            .begin(OpKind::CreateVm, name, Some(vm), Some(goal));
        let handle = self.add_actor(row, true);
        drop(creating);
        // The actor was made a line above and lives until its VM is deleted.
        let _ = handle.wishes.send(Wish::Create {
            start,
            goal,
            op: Arc::clone(&op),
        });
        self.inner.publish_names().await;
        Ok(op.view())
    }

    async fn insert(&self, new: NewVm) -> Result<VmRow, Failure> {
        let store = Arc::clone(&self.inner.store);
        let inserted = tokio::task::spawn_blocking(move || store.insert_vm(new)).await;
        match inserted {
            Ok(Ok(row)) => Ok(row),
            Ok(Err(error)) => {
                let message = error.to_string();
                Err(match error {
                    InsertVmError::NameTaken(name) => self.name_taken(&name),
                    InsertVmError::AddressesExhausted { .. } => {
                        Failure::new(ErrorCode::AddressesExhausted, message)
                            .hint("delete VMs, or give the bridge a larger subnet (`cidr`)")
                    }
                    InsertVmError::Store(error) => {
                        store_failure("the VM could not be stored", &error)
                    }
                })
            }
            Err(error) => Err(Failure::because(
                ErrorCode::Internal,
                "the VM could not be stored",
                &error,
            )),
        }
    }

    /// Why no VM of that name can be made now.
    fn name_taken(&self, name: &VmName) -> Failure {
        if let Some(holder) = self.inner.views().iter().find(|view| view.name == *name) {
            return namesake::name_taken(holder, self.at_work().remove(&holder.id));
        }
        let mut damaged = self.inner.unreadable.iter();
        match damaged.find(|vm| vm.name == name.as_str()) {
            Some(vm) => Failure {
                code: ErrorCode::NameTaken,
                ..unreadable(vm)
            },
            None => namesake::taken(name, "that VM was deleted just now").hint("try it again"),
        }
    }

    /// Starts a VM. One that runs already is waited for.
    ///
    /// # Errors
    /// No such VM.
    pub fn start(
        &self,
        vm: &VmId,
        wait: Option<GuestState>,
        timeout: Option<Duration>,
    ) -> Result<OperationView, Failure> {
        let goal = self.goal(wait, timeout);
        self.send(vm, OpKind::StartVm, Some(goal), |op| Wish::Start {
            goal,
            op,
        })
    }

    /// Stops a VM: cleanly, and by force when `grace` has passed. Never refused.
    ///
    /// # Errors
    /// No such VM.
    pub fn stop(&self, vm: &VmId, grace: Duration) -> Result<OperationView, Failure> {
        self.send(vm, OpKind::StopVm, None, |op| Wish::Stop { grace, op })
    }

    /// Deletes a VM, whatever it does. Never refused.
    ///
    /// # Errors
    /// No such VM.
    pub fn delete(&self, vm: &VmId) -> Result<OperationView, Failure> {
        let only_stopped = false;
        self.send(vm, OpKind::DeleteVm, None, |op| Wish::Delete {
            only_stopped,
            op,
        })
    }

    /// Deletes a VM unless it runs, or is about to.
    ///
    /// # Errors
    /// No such VM. That it runs is told by the operation.
    pub fn delete_stopped(&self, vm: &VmId) -> Result<OperationView, Failure> {
        let only_stopped = true;
        self.send(vm, OpKind::DeleteVm, None, |op| Wish::Delete {
            only_stopped,
            op,
        })
    }

    /// Stops a VM and starts it again. One that does not run is started.
    ///
    /// # Errors
    /// No such VM.
    pub fn restart(
        &self,
        vm: &VmId,
        grace: Duration,
        wait: Option<GuestState>,
        timeout: Option<Duration>,
    ) -> Result<OperationView, Failure> {
        let goal = self.goal(wait, timeout);
        self.send(vm, OpKind::RestartVm, Some(goal), |op| Wish::Restart {
            grace,
            goal,
            op,
        })
    }

    /// Ends a VM's VMM by a signal; the VM is stopped afterwards.
    ///
    /// # Errors
    /// No such VM. That it does not run is told by the operation.
    pub fn kill(&self, vm: &VmId, signal: KillSignal) -> Result<OperationView, Failure> {
        let asked_in = self.get(vm).map_or(Phase::Stopped, |view| view.phase);
        self.send(vm, OpKind::KillVm, None, |op| Wish::Kill {
            signal,
            asked_in,
            op,
        })
    }

    /// Changes a VM: NAT at any time, the rest while it is stopped. Disks only grow.
    ///
    /// # Errors
    /// No such VM, or a change that no phase allows. What the phase forbids is told by the operation.
    pub fn set(&self, vm: &VmId, change: SpecChange) -> Result<OperationView, Failure> {
        let now = self.get(vm).ok_or_else(|| gone(vm))?;
        changed_spec(&self.inner.config, &now.spec, change)?;
        self.send(vm, OpKind::SetVm, None, |op| Wish::Set { change, op })
    }

    fn goal(&self, wait: Option<GuestState>, timeout: Option<Duration>) -> Goal {
        let deadline = timeout.unwrap_or(self.inner.config.boot_deadline);
        Goal { wait, deadline }
    }

    fn send(
        &self,
        vm: &VmId,
        kind: OpKind,
        goal: Option<Goal>,
        wish: impl FnOnce(Arc<Operation>) -> Wish,
    ) -> Result<OperationView, Failure> {
        let handle = self.inner.handle(vm).ok_or_else(|| gone(vm))?;
        let name = handle.view.borrow().name.to_string();
        let op = self.inner.begin(kind, name, Some(vm.clone()), goal);
        handle
            .wishes
            .send(wish(Arc::clone(&op)))
            .map_err(|_| gone(vm))?;
        Ok(op.view())
    }

    /// Cancels an operation: a create's VM is deleted, anything else ends where it can.
    ///
    /// # Errors
    /// No such operation.
    pub fn cancel(&self, id: &OpId) -> Result<OperationView, Failure> {
        let op = self
            .inner
            .operations
            .get(id)
            .ok_or_else(|| no_operation(id))?;
        let view = op.view();
        if view.state != OpState::Running {
            return Ok(view);
        }
        op.cancel();
        match (view.kind, view.vm) {
            (OpKind::CreateVm, Some(vm)) => self.delete(&vm),
            _ => Ok(op.view()),
        }
    }

    /// An operation: one of this daemon's life as it stands, an earlier one as it ended.
    ///
    /// # Errors
    /// The database's, or no such operation.
    pub async fn operation(&self, id: &OpId) -> Result<OperationView, Failure> {
        if let Some(op) = self.inner.operations.get(id) {
            return Ok(op.view());
        }
        let wanted = id.clone();
        let row = self
            .inner
            .store(move |store| store.operation(&wanted))
            .await?;
        row.and_then(|row| stored::read(&row))
            .ok_or_else(|| no_operation(id))
    }

    /// An operation of this daemon's life, as it changes.
    #[must_use]
    pub fn watch(&self, id: &OpId) -> Option<watch::Receiver<OperationView>> {
        self.inner.operations.get(id).map(|op| op.watch())
    }

    /// Runs something long as an operation, so that its stages can be watched.
    pub fn run_task<F, W>(&self, kind: OpKind, subject: &str, work: W) -> OperationView
    where
        W: FnOnce(TaskContext) -> F + Send + 'static,
        F: Future<Output = Result<(), Failure>> + Send,
    {
        let op = self.inner.begin(kind, subject.to_owned(), None, None);
        let view = op.view();
        let inner = Arc::clone(&self.inner);
        self.inner.spawn(async move {
            let result = work(TaskContext::new(Arc::clone(&op))).await;
            inner.finish(&op, result).await;
        });
        view
    }

    /// Waits until a running VM's guest is that far.
    ///
    /// # Errors
    /// It does not run, ends meanwhile, or the deadline passes.
    pub async fn wait_guest(
        &self,
        vm: &VmId,
        state: GuestState,
        deadline: Duration,
    ) -> Result<(), Failure> {
        let mut view = self.watch_vm(vm).ok_or_else(|| gone(vm))?;
        let reached = async {
            loop {
                let now = view.borrow_and_update().clone();
                if !now.comes_up() {
                    now.is_awake()?;
                    if now.readiness >= Some(state) {
                        return Ok(());
                    }
                }
                view.changed().await.map_err(|_| gone(vm))?;
            }
        };
        tokio::time::timeout(deadline, reached)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::new(
                    ErrorCode::Timeout,
                    format!("the guest was not ready in time ({deadline:?})"),
                ))
            })
    }
}

fn no_operation(id: &OpId) -> Failure {
    Failure::new(
        ErrorCode::OperationNotFound,
        format!("there is no operation {id}"),
    )
}

fn gone(vm: &VmId) -> Failure {
    Failure::new(ErrorCode::VmNotFound, format!("there is no VM {vm}"))
}
