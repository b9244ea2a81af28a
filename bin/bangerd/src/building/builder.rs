//! A builder: an ordinary VM that belongs to a build. Nobody's files are synced into it, and it goes with the build.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use banger_core::{ErrorCode, OpId, RootStorage, VmId, VmName};
use banger_engine::ports::{Clock as _, Failure, GuestState, Progress as _, RootHelper as _};
use banger_engine::{CreateVm, OpState, OperationView, TaskContext};
use banger_guest::answer::{Bounds, follow};
use banger_guest::{ExecRequest, ExitStatus};
use banger_image::{BuildCache, Cached};

use super::bases::BaseImage;
use super::cancelled;
use super::log::{Log, LogWriter};
use crate::adapters::{HostClock, blocking};
use crate::sizes::{Asked, effective};
use crate::state::{Shared, State};
use crate::vmm_choice::choose;

/// How often a build looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(100);
/// How long a builder may take to shut down.
const GRACE: Duration = Duration::from_secs(120);
/// How long a step may say nothing: compilers do.
const SILENCE: Duration = Duration::from_secs(24 * 3600);
/// The program of the agent itself, in any guest.
const AGENT: &str = "/proc/self/exe";

/// A VM that a build has made.
pub(super) struct Builder<'a> {
    pub(super) name: VmName,
    vm: VmId,
    of: Site<'a>,
}

/// What all builders of a build share.
#[derive(Clone)]
pub(super) struct Site<'a> {
    pub(super) state: &'a Shared,
    pub(super) context: &'a TaskContext,
    pub(super) log: &'a Log,
    pub(super) cache: Arc<BuildCache>,
}

/// Ends early when nobody wants it any more.
pub(super) async fn unless_cancelled<T>(
    context: &TaskContext,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let gone = async {
        let mut pace = tokio::time::interval(TICK);
        while !context.cancelled() {
            pace.tick().await;
        }
    };
    tokio::select! {
        done = work => done,
        () = gone => Err(cancelled()),
    }
}

/// The storage that builders have on this host now.
pub(super) async fn storage(state: &State) -> Result<RootStorage, Failure> {
    let host = state.host_vmms().await;
    let (_, storage) = choose(state.config.vmm, state.config.storage, &host)?;
    Ok(storage.value)
}

impl<'a> Builder<'a> {
    /// Makes a VM over the base, or with the disks of an earlier state, and waits until its guest is ready.
    pub(super) async fn start(
        of: Site<'a>,
        base: &BaseImage,
        disks: Option<&Cached>,
    ) -> Result<Self, Failure> {
        let (state, context) = (of.state, of.context);
        let nothing_asked = Asked::default();
        let (mut spec, origins) = effective(nothing_asked, &state.config.vm_defaults, state.host);
        let host = state.host_vmms().await;
        let (vmm, storage) = choose(state.config.vmm, state.config.storage, &host)?;
        (spec.vmm, spec.storage) = (vmm.value, storage.value);
        let name = VmName::of_builder(
            HostClock::new()
                .map_err(|error| internal(&error))?
                .entropy(),
        );
        let created = state
            .engine
            .create(CreateVm {
                name: Some(name.clone()),
                image: base.name.clone(),
                kernel: None,
                spec,
                origins,
                start: false,
                ephemeral: false,
                work_seed: None,
                wait: None,
                timeout: None,
            })
            .await?;
        let vm = created
            .vm
            .clone()
            .ok_or_else(|| Failure::new(ErrorCode::Internal, "the builder has no identity"))?;
        let builder = Self { name, vm, of };
        let ready = unless_cancelled(context, builder.begin(&created.id, base, disks)).await;
        match ready {
            Ok(()) => Ok(builder),
            Err(failure) => {
                builder.delete().await;
                Err(failure)
            }
        }
    }

    async fn begin(
        &self,
        created: &OpId,
        base: &BaseImage,
        disks: Option<&Cached>,
    ) -> Result<(), Failure> {
        finished(self.of.state, created).await?;
        let view = self.of.state.engine.get(&self.vm);
        if view.and_then(|view| view.image_digest).as_ref() != Some(&base.digest) {
            let what = format!("the image `{}` was replaced meanwhile", base.name);
            return Err(Failure::new(ErrorCode::InUse, what).hint("build again"));
        }
        if let Some(disks) = disks.cloned() {
            let folder = self.folder();
            blocking(move || disks.put_into(&folder).map_err(|error| internal(&error))).await?;
        }
        let started = self
            .of
            .state
            .engine
            .start(&self.vm, Some(GuestState::Ready), None)?;
        finished(self.of.state, &started.id).await
    }

    fn folder(&self) -> PathBuf {
        self.of.state.vm_folder(&self.vm)
    }

    /// A connection to the guest's agent, for work that blocks.
    pub(super) async fn dial(&self) -> Result<UnixStream, Failure> {
        let dialled = self.of.state.guest_address(&self.vm).dial().await;
        let stream = dialled.map_err(|error| unreachable_guest(&error))?;
        let stream = stream.into_std().and_then(|stream| {
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        stream.map_err(|error| unreachable_guest(&error))
    }

    /// Runs a program with this on its standard input, and logs what it says.
    pub(super) async fn run(
        &self,
        request: &ExecRequest,
        input: &[u8],
    ) -> Result<ExitStatus, Failure> {
        let (log, progress) = (self.of.log, self.of.context);
        let stream = self.dial().await?;
        let mut writer = LogWriter { log, progress };
        let bounds = Bounds {
            bytes: u64::MAX,
            silence: SILENCE,
        };
        let stderr = |bytes: &[u8]| log.said(bytes, progress);
        let ended = follow(stream, request, input, &mut writer, stderr, bounds).await;
        ended.map_err(|error| {
            let what = "the program could not be run in the builder";
            Failure::because(ErrorCode::ImageBuildFailed, what, &error)
        })
    }

    /// Asks the agent's own program for something.
    pub(super) async fn ask(&self, words: &[&str], input: &[u8]) -> Result<(), Failure> {
        let words = [AGENT, "build"].into_iter().chain(words.iter().copied());
        let mut request = ExecRequest::new(words);
        request.cwd = Some("/".to_owned());
        request.no_stdin = input.is_empty();
        let status = self.run(&request, input).await?;
        if status.success() {
            return Ok(());
        }
        let mut failure = Failure::new(ErrorCode::ImageBuildFailed, "the builder refused it");
        failure.causes = self.of.log.tail();
        Err(failure)
    }

    /// Keeps the disks as they are now, while the guest goes on.
    pub(super) async fn keep(&self, key: &str) -> Result<Cached, Failure> {
        self.ask(&["sync"], b"").await?;
        // Nothing of it is written while it is copied.
        self.of.state.helper.pause(&self.vm).await?;
        let kept = self.copied(key).await;
        let resumed = self.of.state.helper.resume(&self.vm).await;
        let kept = kept?;
        resumed?;
        Ok(kept)
    }

    async fn copied(&self, key: &str) -> Result<Cached, Failure> {
        let gone = || Failure::new(ErrorCode::VmNotFound, "somebody has deleted the builder");
        let view = self.of.state.engine.get(&self.vm).ok_or_else(gone)?;
        let below = banger_image::Below {
            image: view.image,
            digest: view.image_digest.ok_or_else(gone)?,
            storage: view.spec.storage,
        };
        let (cache, key, folder) = (Arc::clone(&self.of.cache), key.to_owned(), self.folder());
        blocking(move || {
            cache
                .keep(&key, below, &folder)
                .map_err(|error| internal(&error))
        })
        .await
    }

    /// Takes away what makes the guest itself, shuts it down, and keeps its disks.
    pub(super) async fn seal(&self, key: &str) -> Result<Cached, Failure> {
        self.ask(&["seal"], b"").await?;
        let stopping = self.of.state.engine.stop(&self.vm, GRACE)?;
        finished(self.of.state, &stopping.id).await?;
        self.copied(key).await
    }

    /// Deletes it, whatever it does.
    pub(super) async fn delete(self) {
        delete(self.of.state, &self.vm).await;
    }
}

async fn delete(state: &State, vm: &VmId) {
    let deleted = match state.engine.delete(vm) {
        Ok(deleting) => finished(state, &deleting.id).await,
        Err(failure) => Err(failure),
    };
    match deleted {
        Err(failure) if failure.code != ErrorCode::VmNotFound => {
            tracing::warn!(%vm, %failure, causes = ?failure.causes, "a builder could not be deleted");
        }
        _ => {}
    }
}

/// Deletes builders that a daemon has left which died: their builds have failed.
pub(crate) async fn remove_builders(state: &State) {
    let left = state.engine.list();
    for view in left.iter().filter(|view| view.name.is_of_builder()) {
        delete(state, &view.id).await;
    }
}

fn internal(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::because(ErrorCode::Internal, "the build could not go on", error)
}

fn unreachable_guest(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::because(
        ErrorCode::AgentUnreachable,
        "the builder's agent cannot be reached",
        error,
    )
}

/// Waits for an operation of the engine's.
async fn finished(state: &State, id: &OpId) -> Result<(), Failure> {
    let ended = |view: &OperationView| match &view.state {
        OpState::Running => None,
        OpState::Succeeded => Some(Ok(())),
        OpState::Failed(failure) => Some(Err(failure.clone())),
        OpState::Cancelled => Some(Err(Failure::new(ErrorCode::Cancelled, "cancelled"))),
    };
    let Some(mut watch) = state.engine.watch(id) else {
        return Ok(());
    };
    loop {
        if let Some(end) = ended(&watch.borrow_and_update()) {
            return end;
        }
        if watch.changed().await.is_err() {
            return Err(Failure::new(
                ErrorCode::Internal,
                "an operation has vanished",
            ));
        }
    }
}
