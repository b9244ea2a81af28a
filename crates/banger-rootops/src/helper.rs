//! One request in, one answer out.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use banger_root_proto::{OwnedFacts, PROTOCOL, Refusal, RefusalCode, Reply, Request};

use crate::ledger::{Ledger, LedgerError};
use crate::names::ToldNames;
use crate::nft::Nft;
use crate::refuse::{OrRefuse as _, refuse};
use crate::uids::{CLAIMS_DIR, Claims};
use crate::{Config, ConfigError, process, root_disk};

/// The helper's state: its configuration and its ledger.
#[derive(Debug)]
pub struct Helper {
    pub(crate) config: Config,
    pub(crate) ledger: Ledger,
    pub(crate) claims: Claims,
    pub(crate) nft: Nft,
    /// Why a neighbour's hook could not be used, the last time that was tried.
    pub(crate) beside_problem: Option<String>,
    /// What the host's resolver was told, and when that was last looked at.
    pub(crate) names: Option<ToldNames>,
    /// How many taps are kept ready.
    pub(crate) pool: u8,
}

/// An answer and its descriptors.
pub type Answer = (Reply, Vec<OwnedFd>);

/// Why the helper cannot work.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A bad argument.
    #[error("the helper's configuration is refused")]
    Config(#[source] ConfigError),
    /// No `/proc`.
    #[error("failed to read this boot's id")]
    BootId(#[source] std::io::Error),
    /// The runtime directory is not as it must be.
    #[error("failed to open {}", path.display())]
    Claims {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustix::io::Errno,
    },
    /// The ledger.
    #[error("the helper's ledger cannot be used")]
    Ledger(#[source] LedgerError),
}

impl Helper {
    /// Opens the ledger in the runtime directory, and finds processes whose launch was cut short, and those that
    /// a lost or damaged ledger knew. The directory and [`CLAIMS_DIR`] must exist.
    ///
    /// # Errors
    /// A bad configuration; a ledger of another version.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        config.check().map_err(OpenError::Config)?;
        let boot_id = process::boot_id().map_err(OpenError::BootId)?;
        let path = config.runtime_dir.join("ledger.json");
        let ledger = Ledger::load_or_set_aside(&path, &boot_id);
        let ledger = ledger.map_err(OpenError::Ledger)?;
        let name = config.runtime_dir.to_string_lossy();
        let path = PathBuf::from(CLAIMS_DIR);
        let claims = Claims::open(&path, &name);
        let claims = claims.map_err(|source| OpenError::Claims { path, source })?;
        let mut helper = Self {
            config,
            ledger,
            claims,
            nft: Nft::find(),
            beside_problem: None,
            names: None,
            pool: 0,
        };
        let changed = [
            helper.forget_foreign(),
            helper.find_lost(),
            helper.recover(),
        ];
        if changed.contains(&true) {
            let path = helper.config.runtime_dir.join("ledger.json");
            helper.ledger.save(&path).map_err(OpenError::Ledger)?;
        }
        helper.sweep_snapshots();
        Ok(helper)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Does what is asked. `Hello` is answered whenever it comes; that it comes first is the
    /// connection's business.
    pub fn handle(&mut self, request: &Request, fds: &[OwnedFd]) -> Answer {
        let answer = self
            .check_fds(request, fds)
            .and_then(|()| self.dispatch(request, fds));
        answer.unwrap_or_else(|refusal| (Reply::Refused(refusal), vec![]))
    }

    fn check_fds(&self, request: &Request, fds: &[OwnedFd]) -> Result<(), Refusal> {
        let takes = matches!(
            request,
            Request::LaunchVmm { .. } | Request::RemoveVmm { .. }
        );
        if takes || fds.is_empty() {
            return Ok(());
        }
        let message = format!("no descriptors belong to `{}`", request.verb());
        Err(refuse(RefusalCode::Descriptor, message))
    }

    fn dispatch(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<Answer, Refusal> {
        let done = (Reply::Done {}, vec![]);
        match request {
            Request::Hello { protocol } => self.hello(*protocol),
            Request::EnsureNetwork {} => self.ensure_network().map(|_| done),
            Request::RemoveNetwork {} => self.remove_network().map(|()| done),
            Request::TendNetwork { names, pool } => Ok((self.tend(*names, *pool)?, vec![])),
            Request::InspectNetwork {} => Ok((Reply::Network(self.inspect_network()?), vec![])),
            Request::EnsureTap { vm, address, nat } => {
                self.ensure_tap(vm, *address, *nat).map(|()| done)
            }
            Request::RemoveTap { vm } => self.remove_tap(vm).map(|()| done),
            Request::SetNat { vm, nat } => self.set_nat(vm, *nat).map(|()| done),
            Request::LaunchVmm { vm, spec } => {
                let launched = self.launch(vm, spec, fds)?;
                let reply = Reply::Launched {
                    vmm: launched.vmm,
                    backend: launched.backend,
                };
                Ok((reply, launched.pidfds))
            }
            Request::ProbeVmm { vm } => {
                let probed = self.probe(vm);
                let reply = Reply::Probed {
                    vmm: probed.vmm,
                    backend: probed.backend,
                };
                Ok((reply, probed.pidfds))
            }
            Request::SignalVmm { vm, signal } => self.signal(vm, *signal).map(|()| done),
            Request::RemoveVmm { vm } => self.remove_vmm(vm, fds).map(|()| done),
            Request::List {} => Ok((Reply::Owned(self.list()?), vec![])),
            Request::OpenGuestDns {} => Ok((Reply::GuestDns {}, self.open_guest_dns()?)),
        }
    }

    fn hello(&self, protocol: u32) -> Result<Answer, Refusal> {
        if protocol != PROTOCOL {
            let message = format!(
                "the helper speaks protocol {PROTOCOL}, you speak {protocol}; restart bangerd-root"
            );
            return Err(refuse(RefusalCode::Protocol, message));
        }
        let reply = Reply::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            bridge: self.config.bridge.clone(),
            bridge_ip: self.config.bridge_ip,
            prefix: self.config.prefix,
            snapshots: root_disk::support(),
            firecracker: self.firecracker_path(),
        };
        Ok((reply, vec![]))
    }

    /// Where Firecracker is, when it was given and is there.
    fn firecracker_path(&self) -> Option<String> {
        let path = self.config.firecracker.as_ref();
        path.filter(|path| path.is_file())
            .map(|path| path.display().to_string())
    }

    fn list(&self) -> Result<OwnedFacts, Refusal> {
        let links = self.netlink()?.links();
        let links = links.or_refuse(|| "failed to list network interfaces".into())?;
        Ok(OwnedFacts {
            network: self.network_stands(&links),
            taps: self.list_taps(&links),
            vmms: self.list_vmms(),
        })
    }

    pub(crate) fn save(&self) -> Result<(), Refusal> {
        let path = self.config.runtime_dir.join("ledger.json");
        self.ledger
            .save(&path)
            .or_refuse(|| "failed to note what is about to be made".into())
    }
}
