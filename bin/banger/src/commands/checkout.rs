//! The checkout that `vm run PATH` makes a VM for: written into its work disk before the VM is made, where the image's
//! work seed can be written again here; else brought into the guest as soon as its agent answers, while its services
//! start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use banger_api::Readiness;
use banger_client::Client;
use banger_core::{ErrorCode, ImageName};
use banger_workspace::{
    Collected, How, Options, PlantError, PrepareError, Prepared, Spot, StagedFolder, plant,
};
use tokio::sync::watch;

use super::Context;
use super::workspace::{
    GUEST_HOME, GUEST_PATH, ROOM_HERE, Target, blocking, checkout_failed, collect, in_guest,
    make_read_only, notes, put, staging, summary,
};
use crate::error::CommandError;
use crate::interrupt::Interrupts;
use crate::progress::Progress;

/// The checkout that a VM is made for.
#[derive(Debug)]
pub(super) struct Checkout {
    collected: Collected,
    readonly: bool,
    /// It says which tools it wants.
    tools: bool,
}

/// Installs the tools that a checkout asks for, where the image has mise: behind the user's back, and
/// logged in the guest.
const TOOLS: &str = r#"
command -v mise >/dev/null || exit 0
cd "$1" || exit 0
setsid sh -c 'mise trust --quiet; mise install --yes' >/var/log/banger-mise.log 2>&1 </dev/null &
"#;

impl Checkout {
    /// Finds it, and lists it; what git does not know and does not ignore goes along.
    pub(super) async fn find(
        context: &Context<'_>,
        path: PathBuf,
        branch: Option<String>,
        from: Option<String>,
        readonly: bool,
    ) -> Result<Self, CommandError> {
        let options = Options {
            branch,
            from,
            untracked: true,
            ..Options::default()
        };
        let collected = collect(context, path, options).await?;
        let wants = |name: &&str| {
            let mut paths = collected.entries.keys();
            paths.any(|path| path.as_bytes() == name.as_bytes())
        };
        let tools = [".mise.toml", "mise.toml", ".tool-versions"]
            .iter()
            .any(wants);
        Ok(Self {
            collected,
            readonly,
            tools,
        })
    }

    /// Writes it into a work disk for a VM of that image; the default one without. What cannot be written here is to be
    /// sent: nothing is known of the image yet, or its work seed has what only its own file system keeps.
    pub(super) async fn ready(
        self,
        context: &Context<'_>,
        client: &Client,
        image: Option<&ImageName>,
        interrupts: &mut Interrupts,
    ) -> Result<Ready, CommandError> {
        let images = client.images().await?.images;
        let wanted = |one: &&banger_api::Image| match image {
            Some(name) => one.name == name.as_str(),
            None => one.default,
        };
        let Some(image) = images.iter().find(wanted) else {
            return Ok(Ready::ToSend(Box::new(self)));
        };
        let seed = image.work_seed.clone().map(PathBuf::from);
        let folder = staging(context)?.folder().map_err(|error| {
            let what = "there is no place here to write the work disk in";
            CommandError::because(ErrorCode::HostNotReady, what, &error)
        })?;
        let disk = folder.path().join("work.ext4");
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Progress::new(None, !context.ui.is_json());
        let work = {
            let (disk, stop) = (disk.clone(), Arc::clone(&stop));
            blocking(move || {
                let told = |bytes| {
                    progress.add(bytes);
                    match stop.load(Ordering::Relaxed) {
                        true => Err(io::Error::other("interrupted")),
                        false => Ok(()),
                    }
                };
                let planted = write(&self.collected, seed.as_deref(), &disk, &told);
                match planted {
                    Ok(planted) => Ok((self, planted)),
                    // It was replaced a moment ago, or is damaged, which who makes a disk of it tells.
                    Err(error) if error.is_of_seed() => Ok((self, None)),
                    Err(error) => Err(plant_failed(&error)),
                }
            })
        };
        let mut work = std::pin::pin!(work);
        let done = tokio::select! {
            done = &mut work => done,
            () = interrupts.next() => {
                stop.store(true, Ordering::Relaxed);
                let _ = work.await;
                return Err(CommandError::new(ErrorCode::Cancelled, "interrupted; nothing was made"));
            }
        };
        let (checkout, planted) = done?;
        Ok(match planted {
            Some(prepared) => Ready::Planted(Planted {
                prepared,
                disk,
                _folder: folder,
                readonly: checkout.readonly,
                tools: checkout.tools,
            }),
            None => Ready::ToSend(Box::new(checkout)),
        })
    }

    /// Makes what takes time and needs no guest, and puts all into the guest as soon as its agent answers: the work disk is
    /// mounted by then. The transfer shows itself from when `made` says that the VM is as far as its create waits for.
    async fn send(
        self,
        context: &Context<'_>,
        client: &Client,
        vm: &str,
        mut made: watch::Receiver<bool>,
    ) -> Result<Sent, CommandError> {
        let Self {
            mut collected,
            readonly,
            tools,
        } = self;
        let collected = blocking(move || {
            collected.pack().map_err(|error| checkout_failed(&error))?;
            Ok(Arc::new(collected))
        })
        .await?;
        let target = Target::of(client, vm);
        let shown = made.clone();
        let put = |force| {
            let progress = Progress::new(None, !context.ui.is_json()).once(shown.clone());
            let how = How {
                force,
                ..How::default()
            };
            put(target.clone(), Arc::clone(&collected), how, progress)
        };
        let vmm = async || client.vm(vm).await.ok().and_then(|vm| vm.vmm_pid);
        let early = async {
            let wait = Readiness::Reachable;
            drop(client.connect_guest(vm, wait, None).await?);
            let first = vmm().await;
            Ok::<_, CommandError>((first, put(false).await?))
        };
        let early = early.await;
        // Without a word: it has failed, and who waits for both has stopped waiting.
        let _ = made.wait_for(|made| *made).await;
        let prepared = match early {
            Ok((first, prepared)) if first.is_some() && first == vmm().await => prepared,
            // The guest has booted again meanwhile: what was not on its disk yet is gone.
            Ok(_) => put(true).await?,
            Err(_) => put(false).await?,
        };
        Ok(Sent {
            prepared,
            target,
            readonly,
            tools,
        })
    }
}

fn write(
    collected: &Collected,
    seed: Option<&Path>,
    disk: &Path,
    progress: &dyn Fn(u64) -> io::Result<()>,
) -> Result<Option<Prepared>, PlantError> {
    let to = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(disk)
        .map_err(PlantError::Write)?;
    let spot = Spot {
        seed,
        home: GUEST_HOME.as_ref(),
        path: GUEST_PATH.as_ref(),
    };
    plant(collected, spot, to, progress)
}

fn plant_failed(error: &PlantError) -> CommandError {
    if error.is_disk_full() {
        let what = "the checkout cannot be written into a work disk";
        return CommandError::because(ErrorCode::DiskFull, what, error).hint(ROOM_HERE);
    }
    match error {
        PlantError::Prepare(PrepareError::Checkout(error)) => checkout_failed(error),
        error => {
            let what = "the checkout cannot be written into a work disk";
            CommandError::because(ErrorCode::Internal, what, error)
        }
    }
}

/// A checkout on its way to a VM.
pub(super) enum Ready {
    /// In a work disk.
    Planted(Planted),
    /// Here still.
    ToSend(Box<Checkout>),
}

/// A checkout in a work disk that no VM has yet. Dropped, its file is gone.
pub(super) struct Planted {
    prepared: Prepared,
    disk: PathBuf,
    _folder: StagedFolder,
    readonly: bool,
    tools: bool,
}

impl Ready {
    /// What the VM's work disk is to be made of.
    pub(super) fn work_seed(&self) -> Option<PathBuf> {
        match self {
            Self::Planted(planted) => Some(planted.disk.clone()),
            Self::ToSend(_) => None,
        }
    }

    /// Brings it into the VM that was made for it, which may still boot.
    pub(super) async fn bring(
        self,
        context: &Context<'_>,
        client: &Client,
        vm: &str,
        made: watch::Receiver<bool>,
    ) -> Result<Sent, CommandError> {
        match self {
            Self::ToSend(checkout) => checkout.send(context, client, vm, made).await,
            Self::Planted(planted) => Ok(Sent {
                prepared: planted.prepared,
                target: Target::of(client, vm),
                readonly: planted.readonly,
                tools: planted.tools,
            }),
        }
    }
}

/// A checkout that is in the guest.
pub(super) struct Sent {
    prepared: Prepared,
    target: Target,
    readonly: bool,
    tools: bool,
}

impl Sent {
    /// Says what was sent, and does what belongs to it.
    pub(super) async fn finish(self, context: &Context<'_>) -> Result<(), CommandError> {
        context.ui.note(&summary(&self.prepared));
        notes(context, &self.prepared);
        if self.readonly {
            make_read_only(&self.target, GUEST_PATH).await?;
        }
        if self.tools {
            // Best effort: the VM is as good without.
            drop(in_guest(&self.target, TOOLS, GUEST_PATH.as_ref()).await);
        }
        Ok(())
    }
}
