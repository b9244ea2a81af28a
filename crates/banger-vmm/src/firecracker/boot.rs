//! From a Firecracker that was just started to a guest that runs; and what one that was found does.

use std::path::Path;
use std::time::Duration;

use banger_core::VmId;
use tokio::time::Instant;

use super::api::{Action, InstanceState};
use super::client::{FirecrackerClient, FirecrackerError};
use super::micro_vm::MicroVm;
use super::request::Request;

/// How long one request may take. The start itself reads kernel and initramfs.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the socket may take to come after the process has.
const SOCKET_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for.
const RETRY: Duration = Duration::from_millis(2);

/// How far a boot had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootStage {
    /// Its API had not answered.
    Api,
    /// It was being told what the machine is.
    Configure,
    /// The guest was being started.
    Start,
}

impl BootStage {
    /// What was going on, for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "waiting for its API",
            Self::Configure => "configuring the machine",
            Self::Start => "starting the guest",
        }
    }
}

/// Why a guest was not started.
#[derive(Debug, thiserror::Error)]
#[error("Firecracker failed while {}", stage.as_str())]
pub struct BootError {
    /// How far it had come.
    pub stage: BootStage,
    /// What went wrong.
    #[source]
    pub source: FirecrackerError,
}

/// Configures a Firecracker that was just started and starts the guest in it.
///
/// # Errors
/// The stage, and why.
pub async fn boot(socket: &Path, micro_vm: &MicroVm) -> Result<(), BootError> {
    let at = |stage| move |source| BootError { stage, source };
    let mut client = first_answer(socket, &micro_vm.vm)
        .await
        .map_err(at(BootStage::Api))?;
    for request in micro_vm.requests() {
        let stage = match request {
            Request::Action(Action::InstanceStart) => BootStage::Start,
            _ => BootStage::Configure,
        };
        client.send(&request).await.map_err(at(stage))?;
    }
    Ok(())
}

/// Waits for the socket, and makes sure of who answers there.
async fn first_answer(socket: &Path, vm: &VmId) -> Result<FirecrackerClient, FirecrackerError> {
    let deadline = Instant::now() + SOCKET_PATIENCE;
    let mut client = loop {
        match FirecrackerClient::connect(socket, PATIENCE).await {
            // Bound comes before listening: for a moment a fresh socket looks like a stale one.
            Err(FirecrackerError::NoSocket { .. } | FirecrackerError::StaleSocket { .. })
                if Instant::now() < deadline =>
            {
                tokio::time::sleep(RETRY).await;
            }
            other => break other?,
        }
    };
    client.version().await?;
    check_identity(&mut client, vm).await?;
    Ok(client)
}

async fn check_identity(
    client: &mut FirecrackerClient,
    vm: &VmId,
) -> Result<InstanceState, FirecrackerError> {
    let info = client.instance().await?;
    if info.id == vm.as_str() {
        return Ok(info.state);
    }
    Err(FirecrackerError::Identity {
        found: info
            .id
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect(),
        expected: vm.to_string(),
    })
}

/// What the Firecracker behind a socket does, when it is this VM's.
///
/// # Errors
/// It is not there, another VM's, or does not answer.
pub async fn instance_state(
    socket: &Path,
    vm: &VmId,
    patience: Duration,
) -> Result<InstanceState, FirecrackerError> {
    let mut client = FirecrackerClient::connect(socket, patience).await?;
    check_identity(&mut client, vm).await
}

/// Whether a Firecracker process that lives has a guest to be kept, from what its API said. One that
/// does not answer in time may be stopped, with a guest in it; one that has no socket yet, has none.
#[must_use]
pub fn has_guest(answer: &Result<InstanceState, FirecrackerError>) -> bool {
    match answer {
        Ok(InstanceState::Running | InstanceState::Paused) => true,
        Ok(InstanceState::NotStarted) => false,
        Err(error) => match error {
            FirecrackerError::Timeout { .. } => true,
            FirecrackerError::Connect { source, .. } => {
                source.kind() == std::io::ErrorKind::TimedOut
            }
            _ => false,
        },
    }
}
