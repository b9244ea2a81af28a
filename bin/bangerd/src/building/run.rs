//! A build as it goes: stage by stage, each from its latest state that is in the cache.

use std::collections::BTreeMap;
use std::sync::Arc;

use banger_build::context::Selection;
use banger_build::{Action, Base, CopyFrom, CopyStep, Key, Plan, RunStep, Stage, Step};
use banger_core::{ByteSize, ErrorCode};
use banger_engine::TaskContext;
use banger_engine::ports::{Failure, Progress as _};
use banger_guest::ExecRequest;
use banger_image::{Built, Cached, FinishError, FinishRequest};
use banger_oci::ImageConfig;

use super::bases::{self, BaseImage};
use super::builder::{Builder, Site, storage, unless_cancelled};
use super::copying::{self, Put};
use super::log::Log;
use super::{Order, invalid, still_wanted};
use crate::adapters::blocking;
use crate::keeping;
use crate::state::Shared;

/// What the cache may hold.
const CACHE: ByteSize = ByteSize(20 << 30);
/// Where a step's script is put: not on a disk of the image's.
const SCRIPTS: &str = "/run/banger-build";

/// A build.
pub(super) struct Build<'a> {
    order: &'a Order,
    site: Site<'a>,
    /// The builder in which steps are done.
    builder: Option<Builder<'a>>,
    /// Builders of earlier stages, that are copied from.
    sources: BTreeMap<usize, Builder<'a>>,
    /// Keys of this build's states.
    keys: Vec<String>,
}

/// A stage that is done.
#[derive(Clone)]
struct Done {
    base: BaseImage,
    key: Key,
    /// Its disks; without any, the base as it is.
    disks: Option<Cached>,
}

impl<'a> Build<'a> {
    pub(super) fn new(
        state: &'a Shared,
        order: &'a Order,
        context: &'a TaskContext,
        log: &'a Log,
    ) -> Result<Self, Failure> {
        let cache = state.images.build_cache().map_err(|error| {
            Failure::because(
                ErrorCode::Internal,
                "the build cache cannot be used",
                &error,
            )
        })?;
        let cache = Arc::new(cache);
        Ok(Self {
            order,
            site: Site {
                state,
                context,
                log,
                cache,
            },
            builder: None,
            sources: BTreeMap::new(),
            keys: vec![],
        })
    }

    /// Deletes what builders are left.
    pub(super) async fn clear(&mut self) {
        let sources = std::mem::take(&mut self.sources).into_values();
        for builder in self.builder.take().into_iter().chain(sources) {
            builder.delete().await;
        }
        let (cache, keys) = (Arc::clone(&self.site.cache), self.keys.clone());
        let pruned = blocking(move || {
            cache.prune(CACHE, &keys).map_err(|error| {
                Failure::because(
                    ErrorCode::Internal,
                    "the build cache cannot be pruned",
                    &error,
                )
            })
        });
        if let Err(failure) = pruned.await {
            tracing::warn!(%failure, causes = ?failure.causes, "the build cache grows");
        }
    }

    pub(super) async fn run(&mut self) -> Result<(), Failure> {
        self.site
            .context
            .begin("base", "looking for what it begins with");
        let bases = self.order.bases()?;
        let bases = bases::resolve(self.site.state, &bases, self.site.context)?;
        let plan = self.order.plan(&bases)?;
        self.site.context.end("base", true);
        for note in &plan.notes {
            self.site.log.line(&format!("note: {note}"));
            self.site.context.line(note);
        }
        let storage = storage(self.site.state).await?.to_string();
        let mut done: Vec<Done> = vec![];
        for (at, stage) in plan.stages.iter().enumerate() {
            let begin = match &stage.base {
                Base::Stage(earlier) => done[*earlier].clone(),
                Base::Image(text) => {
                    let base = bases.get(text).cloned();
                    let base = base.ok_or_else(|| invalid(format!("there is no `{text}`")))?;
                    Done {
                        key: Key::root(&format!("{} {storage}", base.digest)),
                        base,
                        disks: None,
                    }
                }
            };
            let is_last = at + 1 == plan.stages.len();
            let ended = self.stage(&plan, at, stage, begin, &done).await?;
            done.push(ended);
            if is_last {
                break;
            }
            if let Some(builder) = self.builder.take() {
                if copied_later(&plan, at) {
                    self.sources.insert(at, builder);
                } else {
                    builder.delete().await;
                }
            }
        }
        let (Some(last), Some(stage)) = (done.pop(), plan.stages.last()) else {
            return Err(invalid("there is nothing to build"));
        };
        self.finish(last, stage).await
    }

    async fn stage(
        &mut self,
        plan: &Plan,
        at: usize,
        stage: &Stage,
        begin: Done,
        done: &[Done],
    ) -> Result<Done, Failure> {
        let mut selections = vec![];
        let mut keys = vec![];
        let mut key = begin.key.clone();
        for step in &stage.steps {
            let (selection, content) = self.content(step, done).await?;
            key = key.after(&step.action, &content);
            selections.push(selection);
            keys.push(key.clone());
        }
        self.keys
            .extend(keys.iter().map(|key| key.as_str().to_owned()));
        let cached = |key: &Key| self.site.cache.get(key.as_str(), &self.site.state.images);
        let known = match self.order.no_cache {
            true => None,
            false => (0..keys.len())
                .rev()
                .find_map(|at| Some((at + 1, cached(&keys[at])?))),
        };
        let (first, mut disks) = match known {
            Some((first, disks)) => (first, Some(disks)),
            None => (0, begin.disks.clone()),
        };
        let several = plan.stages.len() > 1;
        for (number, step) in stage.steps.iter().enumerate() {
            let place = match several {
                true => format!("[{} {}/{}]", stage.name, number + 1, stage.steps.len()),
                false => format!("[{}/{}]", number + 1, stage.steps.len()),
            };
            let stage_key = format!("step-{at}-{number}");
            let title = format!("{place} {}", step.title);
            if number < first {
                let title = format!("{title} (cached)");
                self.site.log.line(&title);
                self.site.context.begin(&stage_key, &title);
                self.site.context.end(&stage_key, true);
                continue;
            }
            if self.builder.is_none() {
                self.boot(&begin.base, disks.as_ref()).await?;
            }
            self.site.log.line(&title);
            self.site.context.begin(&stage_key, &title);
            let result = self.step(step, selections[number].as_ref(), done).await;
            if let Err(failure) = result {
                let failure = self.failed(step, &place, failure);
                self.site.context.end(&stage_key, false);
                return Err(self.entered(failure).await);
            }
            disks = Some(self.keep(&keys[number]).await?);
            self.site.context.end(&stage_key, true);
        }
        Ok(Done {
            base: begin.base,
            key,
            disks,
        })
    }

    /// Where a step failed, and what it said last.
    fn failed(&self, step: &Step, place: &str, failure: Failure) -> Failure {
        if failure.code == ErrorCode::Cancelled {
            return failure;
        }
        let line = step
            .line
            .map_or(String::new(), |line| format!(" (line {line})"));
        let what = format!("the image `{}` could not be built", self.order.name);
        let mut told = Failure::new(failure.code, what);
        told.causes
            .push(format!("{place}{line} failed: {}", step.title));
        told.causes.push(failure.message);
        told.causes.extend(failure.causes);
        told.hints = failure.hints;
        told
    }

    /// The digest of what a step copies, and which files that are.
    async fn content(
        &self,
        step: &Step,
        done: &[Done],
    ) -> Result<(Option<Selection>, String), Failure> {
        let Action::Copy(copy) = &step.action else {
            return Ok((None, String::new()));
        };
        if let CopyFrom::Stage(stage) = copy.from {
            return Ok((None, done[stage].key.as_str().to_owned()));
        }
        if copy.sources.is_empty() {
            return Ok((None, String::new()));
        }
        let context = self.order.context();
        let context = context.ok_or_else(|| invalid("there is no context"))?;
        let looked = tokio::task::block_in_place(|| {
            let selection = context.select(&copy.sources, &copy.dest)?;
            if copy.add {
                context.refuse_archives(&selection)?;
            }
            let digest = context.digest(&selection)?;
            Ok((Some(selection), digest))
        });
        looked.map_err(|error: banger_build::context::ContextError| {
            let failure = Failure::because(ErrorCode::InvalidArgument, step.title.clone(), &error);
            self.failed(step, "the step", failure)
        })
    }

    async fn boot(&mut self, base: &BaseImage, disks: Option<&Cached>) -> Result<(), Failure> {
        self.site.context.begin("builder", "starting the builder");
        let builder = Builder::start(self.site.clone(), base, disks).await?;
        self.site.context.end("builder", true);
        self.site
            .log
            .line(&format!("the builder is {}", builder.name));
        self.builder = Some(builder);
        Ok(())
    }

    fn builder(&self) -> Result<&Builder<'a>, Failure> {
        let gone = || Failure::new(ErrorCode::Internal, "there is no builder");
        self.builder.as_ref().ok_or_else(gone)
    }

    async fn keep(&self, key: &Key) -> Result<Cached, Failure> {
        if self.order.no_cache {
            self.forget(key);
        }
        let keeping = self.builder()?.keep(key.as_str());
        unless_cancelled(self.site.context, keeping).await
    }

    fn forget(&self, key: &Key) {
        if let Err(error) = self.site.cache.forget(key.as_str()) {
            tracing::warn!(%error, "an older state could not be removed");
        }
    }

    async fn step(
        &mut self,
        step: &Step,
        selection: Option<&Selection>,
        done: &[Done],
    ) -> Result<(), Failure> {
        match &step.action {
            Action::Run(run) => self.program(run).await,
            Action::Folder { path } => {
                let stream = self.builder()?.dial().await?;
                let path = path.clone();
                let making = blocking(move || copying::make_folder(&stream, &path));
                unless_cancelled(self.site.context, making).await
            }
            Action::Copy(copy) => self.copy(copy, selection, done).await,
        }
    }

    async fn program(&self, run: &RunStep) -> Result<(), Failure> {
        let builder = self.builder()?;
        let mut argv = run.argv.clone();
        if let Some(script) = run.script.clone() {
            let (first, second) = (builder.dial().await?, builder.dial().await?);
            let files = [("script".to_owned(), script)];
            let putting = blocking(move || {
                copying::make_folder(&first, SCRIPTS)?;
                copying::given(&second, SCRIPTS, &files, 0o755)
            });
            unless_cancelled(self.site.context, putting).await?;
            argv.insert(0, format!("{SCRIPTS}/script"));
        }
        let mut request = ExecRequest::new(argv);
        request.env.clone_from(&run.env);
        request.env.extend(run.env_unkeyed.iter().cloned());
        request.cwd = Some(run.cwd.clone());
        request.user.clone_from(&run.user);
        request.no_stdin = true;
        let running = builder.run(&request, b"");
        let status = unless_cancelled(self.site.context, running).await?;
        if status.success() {
            return Ok(());
        }
        let what = match status {
            banger_guest::ExitStatus::Code(code) => format!("it exited with {code}"),
            banger_guest::ExitStatus::Signal(number) => format!("signal {number} ended it"),
        };
        let mut failure = Failure::new(ErrorCode::ImageBuildFailed, what);
        failure.causes = self.site.log.tail();
        Err(failure)
    }

    async fn copy(
        &mut self,
        copy: &CopyStep,
        selection: Option<&Selection>,
        done: &[Done],
    ) -> Result<(), Failure> {
        let mut all = vec![];
        if let CopyFrom::Stage(stage) = copy.from {
            self.source(stage, &done[stage]).await?;
            for source in &copy.sources {
                all.push(self.copy_from_stage(stage, source, &copy.dest).await?);
            }
        }
        let (parent, name) = copying::split(&copy.dest);
        if !copy.inline.is_empty() {
            let stream = self.folder(parent).await?;
            let (folder, files) = (parent.to_owned(), copy.inline.clone());
            debug_assert!(!name.is_empty());
            let putting = blocking(move || copying::given(&stream, &folder, &files, 0o644));
            all.push(unless_cancelled(self.site.context, putting).await?);
        }
        if let (Some(selection), Some(context)) = (selection, self.order.context()) {
            let folder = match selection.one_file {
                true => parent,
                false => folder_of(&copy.dest),
            };
            let stream = self.folder(folder).await?;
            let put = tokio::task::block_in_place(|| {
                copying::from_context(&stream, context, selection, folder)
            });
            all.push(put?);
        }
        if copy.chown.is_some() || copy.chmod.is_some() {
            let owner = copy.chown.as_deref().unwrap_or("-");
            let mode = copy
                .chmod
                .map_or("-".to_owned(), |mode| format!("{mode:o}"));
            for put in &all {
                let words = ["own", owner, &mode, &put.folder];
                let input = copying::as_input(put);
                let asking = self.builder()?.ask(&words, &input);
                unless_cancelled(self.site.context, asking).await?;
            }
        }
        Ok(())
    }

    /// Makes a folder in the builder, and dials it again.
    async fn folder(&self, folder: &str) -> Result<std::os::unix::net::UnixStream, Failure> {
        let builder = self.builder()?;
        let stream = builder.dial().await?;
        let path = folder.to_owned();
        let making = blocking(move || copying::make_folder(&stream, &path));
        unless_cancelled(self.site.context, making).await?;
        builder.dial().await
    }

    /// A builder with what an earlier stage has made.
    async fn source(&mut self, stage: usize, done: &Done) -> Result<(), Failure> {
        if self.sources.contains_key(&stage) {
            return Ok(());
        }
        let disks = done.disks.as_ref();
        let builder = Builder::start(self.site.clone(), &done.base, disks).await?;
        self.sources.insert(stage, builder);
        Ok(())
    }

    async fn copy_from_stage(
        &self,
        stage: usize,
        source: &str,
        dest: &str,
    ) -> Result<Put, Failure> {
        if source.contains(['*', '?', '[']) {
            let what = format!("`{source}`: patterns are not looked up in another stage");
            return Err(Failure::new(ErrorCode::ImageBuildFailed, what)
                .hint("name the folder or the files"));
        }
        let from = &self.sources[&stage];
        let source = match source.trim_end_matches('/') {
            "" => "/".to_owned(),
            path => path.to_owned(),
        };
        if source == "/" {
            let what = "the whole of another stage cannot be copied";
            return Err(Failure::new(ErrorCode::ImageBuildFailed, what)
                .hint("begin with it instead: `FROM NAME`"));
        }
        let (asked, path) = (from.dial().await?, source.clone());
        let looking = blocking(move || copying::is_folder(&asked, &path));
        let is_folder = unless_cancelled(self.site.context, looking).await?;
        let (parent, name) = copying::split(dest);
        let (folder, name) = match (is_folder, name) {
            (true, _) => (folder_of(dest), None),
            (false, "") => (folder_of(dest), Some(copying::base_name(&source))),
            (false, name) => (parent, Some(name)),
        };
        let (from, to) = (from.dial().await?, self.folder(folder).await?);
        let (folder, name) = (folder.to_owned(), name.map(str::to_owned));
        let copying =
            blocking(move || copying::from_guest(&from, &to, &source, &folder, name.as_deref()));
        unless_cancelled(self.site.context, copying).await
    }

    /// Lets somebody look into the builder before it goes, when that is wanted.
    async fn entered(&mut self, failure: Failure) -> Failure {
        if self.order.enter_on_failure && failure.code != ErrorCode::Cancelled {
            let why: Vec<&str> = failure.causes.iter().skip(1).map(String::as_str).collect();
            // What is done with it makes no image: the step has failed.
            let _ = self
                .wait_for_somebody("enter-failed", &why.join(": "))
                .await;
        }
        failure
    }

    /// Waits until somebody who was in the builder says what becomes of it.
    async fn wait_for_somebody(&mut self, stage: &str, title: &str) -> Result<bool, Failure> {
        let builder = self.builder()?;
        let told = self.site.state.waiting.wait(&self.order.name);
        self.site.context.begin(stage, title);
        self.site.context.line(builder.name.as_str());
        let keep = unless_cancelled(self.site.context, async {
            let gone = |_| Failure::new(ErrorCode::Cancelled, "another build took its place");
            told.await.map_err(gone)
        });
        let keep = keep.await;
        self.site.context.end(stage, keep.is_ok());
        keep
    }

    async fn finish(&mut self, last: Done, stage: &Stage) -> Result<(), Failure> {
        let mut key = last.key.clone();
        if self.order.interactive {
            if self.builder.is_none() {
                self.boot(&last.base, last.disks.as_ref()).await?;
            }
            let title = "waiting for you in the builder";
            if !self.wait_for_somebody("enter", title).await? {
                return Err(Failure::new(
                    ErrorCode::Cancelled,
                    "what was in the builder is not kept",
                ));
            }
            // What somebody did is like nothing else.
            key = key.finished(&jiff::Timestamp::now().to_string());
        }
        let config = serde_json::to_string(&stage.config).unwrap_or_default();
        let size = self.order.size.map_or(0, |size| size.0);
        // The disks' end is the same however it is to be run.
        let end = key.finished("");
        let key = key.finished(&format!("{size} {config}"));
        self.keys.push(end.as_str().to_owned());
        let fresh = self.order.no_cache;
        if !fresh && self.is_there(&key) {
            return Ok(());
        }
        let known = self.site.cache.get(end.as_str(), &self.site.state.images);
        let disks = match known.filter(|_| !fresh) {
            Some(disks) => disks,
            None => {
                if self.builder.is_none() {
                    self.boot(&last.base, last.disks.as_ref()).await?;
                }
                self.site.context.begin("seal", "shutting the builder down");
                if fresh {
                    self.forget(&end);
                }
                let sealing = self.builder()?.seal(end.as_str());
                let disks = unless_cancelled(self.site.context, sealing).await?;
                self.site.context.end("seal", true);
                disks
            }
        };
        self.site.context.begin("image", "making the image");
        let request = FinishRequest {
            name: self.order.name.clone(),
            built: Built {
                base: last.base.name.clone(),
                base_digest: last.base.digest.clone(),
                key: key.as_str().to_owned(),
                config: run_config(&stage.config),
                labels: stage.config.labels.clone(),
                volumes: stage.config.volumes.clone(),
            },
            size: self.order.size,
        };
        let (images, cache) = (self.site.state.images.clone(), Arc::clone(&self.site.cache));
        still_wanted(self.site.context)?;
        let name = self.order.name.clone();
        let made = blocking(move || {
            let made = images.finish(request, &cache, &disks);
            made.map_err(|error| finish_failure(&name, &error))
        });
        made.await?;
        self.site.context.end("image", true);
        keeping::discard_old(self.site.state, &self.order.name);
        Ok(())
    }

    /// Whether the name means what would be made.
    fn is_there(&self, key: &Key) -> bool {
        let image = self.site.state.images.get(&self.order.name);
        let built = image.and_then(|image| image.record.built);
        built.is_some_and(|built| built.key == key.as_str())
    }
}

fn copied_later(plan: &Plan, at: usize) -> bool {
    let later = plan.stages.iter().skip(at + 1);
    let steps = later.flat_map(|stage| &stage.steps);
    steps
        .into_iter()
        .any(|step| matches!(&step.action, Action::Copy(copy) if copy.from == CopyFrom::Stage(at)))
}

/// A destination as a folder.
fn folder_of(dest: &str) -> &str {
    match dest.trim_end_matches('/') {
        "" => "/",
        folder => folder,
    }
}

fn finish_failure(name: &banger_core::ImageName, error: &FinishError) -> Failure {
    let code = match error {
        _ if error.is_disk_full() => ErrorCode::DiskFull,
        FinishError::Busy(_) | FinishError::NoBase(_) => ErrorCode::InUse,
        FinishError::Disk(_) => ErrorCode::ImageBuildFailed,
        FinishError::Io(_) => ErrorCode::Internal,
    };
    Failure::because(code, format!("the image `{name}` could not be made"), error)
}

fn run_config(config: &banger_build::Config) -> ImageConfig {
    ImageConfig {
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        user: config.user.clone(),
        working_dir: config.working_dir.clone(),
        exposed_ports: config.exposed_ports.clone(),
        stop_signal: config.stop_signal.clone(),
    }
}
