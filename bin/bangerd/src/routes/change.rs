//! What is asked of a VM beyond start, stop and delete.

use std::time::Duration;

use axum::extract::{Path, State};
use banger_api::{KillVmRequest, Operation, Readiness, RestartVmRequest, SetVmRequest};
use banger_core::SpecChange;

use super::Problem;
use super::operations::{Accepted, accepted};
use super::problem::Body;
use super::vms::{GRACE, goal};
use crate::state::Shared;

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}

/// Stops a VM and starts it again.
#[utoipa::path(post, path = "/v1/vms/{ref}/restart", params(("ref" = String, Path,)), request_body = RestartVmRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn restart(
    State(state): State<Shared>,
    Path(reference): Path<String>,
    Body(request): Body<RestartVmRequest>,
) -> Result<Accepted, Problem> {
    let vm = state.engine.resolve(&reference)?.id;
    let view = state.engine.restart(
        &vm,
        request.grace_s.map_or(GRACE, seconds),
        goal(request.wait.unwrap_or(Readiness::Ready)),
        request.timeout_s.map(seconds),
    )?;
    Ok(accepted(&state, &view))
}

/// Ends a VM's VMM by a signal.
#[utoipa::path(post, path = "/v1/vms/{ref}/kill", params(("ref" = String, Path,)), request_body = KillVmRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn kill(
    State(state): State<Shared>,
    Path(reference): Path<String>,
    Body(request): Body<KillVmRequest>,
) -> Result<Accepted, Problem> {
    let vm = state.engine.resolve(&reference)?.id;
    let view = state.engine.kill(&vm, request.signal)?;
    Ok(accepted(&state, &view))
}

/// Changes a VM: NAT at any time, the rest while it is stopped. Disks only grow.
#[utoipa::path(patch, path = "/v1/vms/{ref}", params(("ref" = String, Path,)), request_body = SetVmRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn set(
    State(state): State<Shared>,
    Path(reference): Path<String>,
    Body(request): Body<SetVmRequest>,
) -> Result<Accepted, Problem> {
    let vm = state.engine.resolve(&reference)?.id;
    let change = SpecChange {
        vcpu: request.vcpu,
        memory_mib: request.memory_mib,
        disk_size: request.disk_size,
        nat: request.nat,
    };
    let view = state.engine.set(&vm, change)?;
    Ok(accepted(&state, &view))
}
