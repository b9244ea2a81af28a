//! What every route sees.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use banger_core::{ImageName, Phase};
use banger_dns::DnsServer;
use banger_engine::Engine;
use banger_guest::{AgentClient, GuestAddress, Status as GuestStatus};
use banger_image::ImageStore;
use banger_kernel::KernelStore;

use crate::adapters::{HelperLink, LocalImages};
use crate::args::Args;
use crate::building::Waiting;
use crate::builds::Builder;
use crate::catalogs::Catalogs;
use crate::config::{Config, Origins};
use crate::host_vmms::HostProbe;
use crate::listen::Stop;
use crate::sizes::Host;
use crate::stale::Staleness;
use crate::stats::Sampler;
use crate::vm_folder;
use crate::vmm_choice::HostVmms;

/// Shared by the routes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) args: Args,
    pub(crate) config: Config,
    /// Where its values come from.
    pub(crate) origins: Origins,
    /// Keys of the owner's configuration that root decided otherwise.
    pub(crate) overruled: Vec<&'static str>,
    pub(crate) builder: Builder,
    pub(crate) catalogs: Arc<Catalogs>,
    pub(crate) host: Host,
    pub(crate) engine: Engine,
    pub(crate) images: ImageStore,
    /// The same, where a missing one is made.
    pub(crate) local_images: Arc<LocalImages>,
    pub(crate) kernels: KernelStore,
    pub(crate) helper: Arc<HelperLink>,
    pub(crate) default_image: ImageName,
    pub(crate) probe: Arc<HostProbe>,
    pub(crate) owner_key: PathBuf,
    pub(crate) dns: HostDns,
    pub(crate) sampler: Sampler,
    pub(crate) staleness: Staleness,
    pub(crate) seeds: crate::seeds::Tried,
    /// Builds that wait for somebody.
    pub(crate) waiting: Waiting,
    pub(crate) build: String,
    pub(crate) started_at: String,
    /// Whether what exists was compared with what is stored; it waits for the helper.
    pub(crate) reconciled: AtomicBool,
    /// What could not be put right then.
    pub(crate) problems: std::sync::Mutex<Vec<String>>,
    /// Held while that is done.
    pub(crate) reconciling: tokio::sync::Mutex<()>,
    /// Ends the daemon.
    pub(crate) stop: Arc<Stop>,
}

/// Where this host is answered for `.vm`.
#[derive(Debug)]
pub(crate) enum HostDns {
    /// Here, as long as this lives.
    Serving(DnsServer),
    /// Why it is not.
    Nowhere(String),
}

impl HostDns {
    /// Where it listens.
    pub(crate) fn address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Serving(server) => Some(server.local_addr()),
            Self::Nowhere(_) => None,
        }
    }
}

impl std::fmt::Display for HostDns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serving(server) => write!(f, "{}", server.local_addr()),
            Self::Nowhere(why) => write!(f, "nowhere: {why}"),
        }
    }
}

/// The routes' handle on it.
pub(crate) type Shared = Arc<State>;

impl State {
    /// What the last comparison of what exists with what is stored could not put right.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.problems.lock();
        problems.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn note_problems(&self, found: Vec<String>) {
        let problems = self.problems.lock();
        *problems.unwrap_or_else(PoisonError::into_inner) = found;
    }

    pub(crate) fn vm_folder(&self, vm: &banger_core::VmId) -> PathBuf {
        self.args.state_dir.join("vms").join(vm.as_str())
    }

    pub(crate) fn guest_address(&self, vm: &banger_core::VmId) -> GuestAddress {
        GuestAddress::new(self.vm_folder(vm).join(vm_folder::AGENT))
    }

    /// What a VM's agent says of it, when it says it soon.
    pub(crate) async fn glance(
        &self,
        vm: &banger_core::VmId,
        patience: Duration,
    ) -> Option<GuestStatus> {
        let address = self.guest_address(vm);
        let asking = async {
            let mut agent = AgentClient::over(address.dial().await.ok()?);
            agent.status().await.ok()
        };
        tokio::time::timeout(patience, asking).await.ok().flatten()
    }

    /// Whether something waits for the helper: in the engine, or what was left in the middle by an earlier daemon, which
    /// is not gone on with before what exists was seen.
    pub(crate) fn wants_helper(&self) -> bool {
        let unseen = || {
            let at_rest = |phase| matches!(phase, Phase::Stopped | Phase::Failed);
            !self.reconciled.load(Ordering::Acquire)
                && self.engine.list().iter().any(|vm| !at_rest(vm.phase))
        };
        self.engine.wants_helper() || unseen()
    }

    /// What this host offers to VMs now.
    pub(crate) async fn host_vmms(&self) -> HostVmms {
        let info = self.helper.info().await.ok();
        let probe = Arc::clone(&self.probe);
        // What cannot be asked is not offered.
        let asked = tokio::task::spawn_blocking(move || probe.offers(info.as_ref())).await;
        asked.unwrap_or_else(|_| self.probe.offers(None))
    }

    /// Where a build or import writes its log.
    pub(crate) fn build_log(&self, subject: &str) -> PathBuf {
        self.args
            .state_dir
            .join("logs")
            .join(format!("{subject}.log"))
    }
}
