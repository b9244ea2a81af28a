//! The checkout that `vm run PATH` makes a VM for: brought into the guest as soon as its agent answers, while its services start.

use std::path::PathBuf;
use std::sync::Arc;

use banger_api::Readiness;
use banger_client::Client;
use banger_workspace::{Collected, How, Options, Prepared};
use tokio::sync::watch;

use super::Context;
use super::workspace::{
    GUEST_PATH, Target, blocking, checkout_failed, collect, in_guest, make_read_only, notes, put,
    summary,
};
use crate::error::CommandError;
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

    /// Makes what takes time and needs no guest, and puts all into the guest as soon as its agent answers: the work disk is
    /// mounted by then. The transfer shows itself from when `made` says that the VM is as far as its create waits for.
    pub(super) async fn send(
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
        let target = Target {
            client: client.clone(),
            vm: vm.to_owned(),
            path: GUEST_PATH.into(),
        };
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
