//! What is asked of a guest.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use banger_api::{PortList, Readiness, UnpulledList, UnpulledWorkspace};
use banger_core::{ErrorCode, Phase, VmId};
use banger_engine::VmView;
use banger_engine::ports::Failure;
use banger_guest::{AgentCallError, AgentClient};

use super::Problem;
use super::connect::{ANSWER, PATIENCE, reach};
use crate::convert;
use crate::ports;
use crate::state::Shared;
use crate::unpulled;

/// How long an agent is asked for what is shown beside other things.
const GLANCE: Duration = Duration::from_secs(2);
/// So many of a guest's sentences are shown.
const MAX_PROBLEMS: usize = 20;

/// A connection to the agent of a guest that runs.
async fn agent(state: &Shared, vm: &VmId) -> Result<AgentClient, Failure> {
    let stream = reach(state, vm, Readiness::Reachable, PATIENCE).await?;
    Ok(AgentClient::over(stream))
}

/// An agent's answer, in time.
async fn answer<T>(asking: impl Future<Output = Result<T, AgentCallError>>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER, asking).await {
        Ok(result) => result.map_err(|error| failure(&error)),
        Err(_) => Err(failure(&AgentCallError::Deadline)),
    }
}

fn failure(error: &AgentCallError) -> Failure {
    match error {
        AgentCallError::Older { .. } => {
            Failure::new(ErrorCode::AgentTooOld, error.to_string())
                .hint("banger vm stop VM, then banger vm start VM")
        }
        error => Failure::because(
            ErrorCode::AgentUnreachable,
            "the guest's agent cannot be asked",
            error,
        )
        .hint("`banger vm logs` shows the console; stopping and starting the VM brings the agent back"),
    }
}

/// What its workspaces hold that was never pulled.
#[utoipa::path(get, path = "/v1/vms/{ref}/unpulled", params(("ref" = String, Path,)), responses((status = 200, body = UnpulledList)))]
pub(crate) async fn unpulled(
    State(state): State<Shared>,
    Path(reference): Path<String>,
) -> Result<Json<UnpulledList>, Problem> {
    let view = state.engine.resolve(&reference)?;
    let folder = state.vm_folder(&view.id);
    let found = if !unpulled::is_expected(&folder) {
        Ok(vec![])
    } else if view.phase == Phase::Running && view.is_awake().is_ok() {
        let address = state.guest_address(&view.id);
        unpulled::ask(&address, unpulled::PATIENCE).await
    } else {
        unpulled::noted(&folder)
    };
    let (found, unknown) = match found {
        Ok(found) => (found, None),
        Err(error) => (vec![], Some(error.to_string())),
    };
    let workspaces = found.into_iter().map(|one| UnpulledWorkspace {
        path: one.path,
        commits: one.commits,
        tags: one.tags,
        files: one.files,
        more_files: one.more_files,
    });
    Ok(Json(UnpulledList {
        vm: view.name.to_string(),
        workspaces: workspaces.collect(),
        unknown,
    }))
}

/// Who listens in the guest, and which of it are web servers.
#[utoipa::path(get, path = "/v1/vms/{ref}/ports", params(("ref" = String, Path,)), responses((status = 200, body = PortList)))]
pub(crate) async fn list_ports(
    State(state): State<Shared>,
    Path(reference): Path<String>,
) -> Result<Json<PortList>, Problem> {
    let VmView {
        id, name, address, ..
    } = state.engine.resolve(&reference)?;
    let mut agent = agent(&state, &id).await?;
    let found = answer(agent.listeners()).await?;
    Ok(Json(ports::describe(&name, address, found).await))
}

/// What a VM has to do without: files that the host could not give it, and what its boot complained of.
pub(super) async fn warnings(state: &Shared, view: &VmView) -> Vec<String> {
    let mut warnings = convert::file_sync_warnings(state, &view.id);
    if view.readiness.is_none() || view.is_awake().is_err() {
        return warnings;
    }
    // Without the agent the rest is told all the same.
    if let Some(status) = state.glance(&view.id, GLANCE).await {
        let problems = status.problems.iter().take(MAX_PROBLEMS);
        warnings.extend(problems.map(|text| printable(text)));
    }
    warnings
}

/// A guest's sentence, short and with nothing that a terminal would obey.
fn printable(text: &str) -> String {
    let shown = text.chars().take(300);
    shown
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
