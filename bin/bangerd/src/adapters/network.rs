//! The network, through the helper: brought up, looked after, taken down; names for guests.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU8, Ordering};

use banger_core::{ErrorCode, NetworkPlan};
use banger_dns::{DnsServer, Forwarder, Zone};
use banger_engine::ports::Failure;
use banger_root_proto::{CallError, NamesRouting, NetworkFacts, NetworkRepair, Reply, Request};
use tokio::sync::Notify;

use super::helper::{HelperLink, away};

pub(super) const CONFLICT_HINT: &str = "choose another subnet (`cidr`) or bridge (`bridge_name`) in \
    the configuration, stop all VMs, and run `banger daemon stop`";

/// What the network is made with.
#[derive(Debug)]
pub(crate) struct NetworkNeeds {
    /// What the configuration says.
    pub(crate) plan: NetworkPlan,
    /// Names.
    pub(crate) zone: Zone,
    /// Where guests with NAT get names of the world.
    pub(crate) forwarder: Forwarder,
    /// The port on 127.0.0.1 that answers for `.vm`; none when nobody listens there.
    pub(crate) names_port: Option<u16>,
    /// How many taps are kept ready.
    pub(crate) pool: AtomicU8,
    /// Said when there is something to tend.
    pub(crate) changed: Notify,
}

impl HelperLink {
    /// Bridge, firewall, names for guests.
    pub(super) async fn bring_up_network(&self) -> Result<(), Failure> {
        self.call(Request::EnsureNetwork {}, vec![]).await?;
        self.check_plan()?;
        self.network.changed.notify_one();
        // A guest without names is better than none.
        if let Err(failure) = self.serve_names_to_guests().await {
            tracing::warn!(%failure, causes = ?failure.causes, "guests cannot ask for names");
        }
        Ok(())
    }

    /// The helper keeps to what it was started with, which may not be what is configured now.
    fn check_plan(&self) -> Result<(), Failure> {
        let Some(info) = self.connected() else {
            return Ok(());
        };
        let plan = &self.network.plan;
        let same = (info.bridge.as_str(), info.bridge_ip, info.prefix)
            == (plan.bridge.as_str(), plan.bridge_ip, plan.prefix);
        if same {
            return Ok(());
        }
        let what = format!(
            "the helper runs the bridge {} with {}/{}, the configuration says {} with {}/{}",
            info.bridge, info.bridge_ip, info.prefix, plan.bridge, plan.bridge_ip, plan.prefix
        );
        Err(Failure::new(ErrorCode::NetworkConflict, what)
            .hint(
                "stop all VMs and run `banger daemon stop`: both start anew with the next command",
            )
            .hint("or set `bridge_name`, `bridge_ip` and `cidr` to what the helper runs"))
    }

    /// Returns when there is something to tend.
    pub(crate) async fn network_changed(&self) {
        self.network.changed.notified().await;
    }

    /// Puts right what others have changed of the network, and keeps taps ready. Without a network
    /// it does nothing.
    pub(crate) async fn tend(&self) -> Result<(), Failure> {
        let request = Request::TendNetwork {
            names: self.network.names_port,
            pool: self.network.pool.load(Ordering::Acquire),
        };
        let (reply, _) = self.call(request, vec![]).await?;
        let Reply::Tended { repairs, names } = reply else {
            return Err(away(&CallError::Unexpected));
        };
        if !repairs.is_empty() {
            tracing::warn!(
                ?repairs,
                "the network was changed by others and is put right"
            );
        }
        if repairs.contains(&NetworkRepair::Bridge) {
            // The sockets belong to a bridge that is no more.
            *self.guest_dns.lock().await = None;
            self.serve_names_to_guests().await?;
        }
        let problem = match names {
            Some(NamesRouting::Failed { why }) => Some(why),
            _ => None,
        };
        let mut known = self
            .names_problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *known != problem {
            if let Some(why) = &problem {
                tracing::warn!(why, "the host's resolver could not be told of `.vm`");
            }
            *known = problem;
        }
        Ok(())
    }

    /// No taps are kept ready any more.
    pub(crate) async fn drain_pool(&self) {
        if self.network.pool.swap(0, Ordering::AcqRel) > 0
            && let Err(failure) = self.tend().await
        {
            tracing::info!(%failure, "taps that were kept ready stay");
        }
    }

    /// Takes down bridge and firewall; refused while a VM is on it.
    pub(crate) async fn remove_network(&self) -> Result<(), Failure> {
        self.drain_pool().await;
        self.call(Request::RemoveNetwork {}, vec![]).await.map(drop)
    }

    /// The network as it is, and what of others stands in its way.
    pub(crate) async fn inspect_network(&self) -> Result<NetworkFacts, Failure> {
        let (reply, _) = self.call(Request::InspectNetwork {}, vec![]).await?;
        match reply {
            Reply::Network(facts) => Ok(facts),
            _ => Err(away(&CallError::Unexpected)),
        }
    }

    /// The zone that is served.
    pub(crate) fn zone(&self) -> &Zone {
        &self.network.zone
    }

    /// Why the host's resolver could not be told of `.vm`, the last time that was tried.
    pub(crate) fn names_problem(&self) -> Option<String> {
        let known = self.names_problem.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers guests' questions for names, on sockets that only the helper can open. Once is enough.
    pub(crate) async fn serve_names_to_guests(&self) -> Result<(), Failure> {
        let mut serving = self.guest_dns.lock().await;
        if serving.is_some() {
            return Ok(());
        }
        let (_, fds) = self.call(Request::OpenGuestDns {}, vec![]).await?;
        let Ok([udp, tcp]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Err(away(&CallError::Unexpected));
        };
        let (zone, forwarder) = (self.network.zone.clone(), self.network.forwarder.clone());
        let server = DnsServer::start_bound(udp.into(), tcp.into(), zone, Some(forwarder));
        let server = server.map_err(|error| {
            Failure::because(
                ErrorCode::Internal,
                "guests' questions for names cannot be answered",
                &error,
            )
        })?;
        *serving = Some(server);
        Ok(())
    }
}
