//! The agents in the guests.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use banger_core::{ErrorCode, VmId};
use banger_engine::ports::{Failure, GuestState, Guests};
use banger_guest::{AgentCallError, AgentClient, GuestAddress};
use banger_guest_proto::{Readiness, ShutdownVerb};
use tokio::time::Instant;

use crate::{unpulled, vm_folder};

/// Longer than any caller waits: who calls sets the deadline.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// How long to wait before a guest whose connection broke is asked again.
const AGAIN: Duration = Duration::from_millis(20);

/// Reached by each VM's vsock socket.
#[derive(Debug)]
pub(crate) struct AgentGuests {
    pub(crate) vms: PathBuf,
}

impl AgentGuests {
    pub(crate) fn address(&self, vm: &VmId) -> GuestAddress {
        GuestAddress::new(self.folder(vm).join(vm_folder::AGENT))
    }

    fn folder(&self, vm: &VmId) -> PathBuf {
        self.vms.join(vm.as_str())
    }

    async fn connect(&self, vm: &VmId) -> Result<AgentClient, AgentCallError> {
        AgentClient::connect(&self.address(vm), Instant::now() + FOREVER).await
    }
}

fn failure(error: &AgentCallError) -> Failure {
    Failure::because(
        ErrorCode::AgentUnreachable,
        "the guest's agent cannot be reached",
        error,
    )
}

#[async_trait]
impl Guests for AgentGuests {
    async fn wait(&self, vm: &VmId, state: GuestState) -> Result<(), Failure> {
        let readiness = match state {
            GuestState::Reachable => Readiness::Reachable,
            GuestState::Ready => Readiness::Ready,
        };
        let ask = async || self.connect(vm).await?.wait(readiness).await;
        loop {
            match ask().await {
                Ok(_) => {
                    unpulled::forget(&self.folder(vm));
                    return Ok(());
                }
                // A connection that breaks is a guest that ends, which whoever waits sees by itself,
                // or a VMM that lost it: then there is another one.
                Err(AgentCallError::Connection(_) | AgentCallError::Dial(_)) => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(failure(&error)),
            }
        }
    }

    async fn shutdown(&self, vm: &VmId) -> Result<(), Failure> {
        unpulled::note(&self.folder(vm), &self.address(vm)).await;
        let mut agent = self.connect(vm).await.map_err(|error| failure(&error))?;
        agent
            .shutdown(ShutdownVerb::Poweroff)
            .await
            .map_err(|error| failure(&error))
    }
}
