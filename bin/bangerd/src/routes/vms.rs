//! VMs.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use banger_api::{
    CreateVmRequest, DeleteQuery, Operation, Readiness, SshAccess, SshTarget, StopVmRequest, Vm,
    VmList,
};
use banger_core::ErrorCode;
use banger_engine::CreateVm;
use banger_engine::ports::{Failure, GuestState, Unwatched};
use banger_image::Recipe;

use super::operations::{Accepted, accepted};
use super::problem::{Body, Query};
use super::{Problem, guest};
use crate::adapters::{blocking, unknown_image, unknown_kernel};
use crate::convert;
use crate::seeds;
use crate::sizes::{Asked, effective};
use crate::state::Shared;
use crate::stores::{has_store, root_fill};
use crate::vmm_choice::choose;

/// How long a clean shutdown may take where nobody says otherwise.
pub(super) const GRACE: Duration = Duration::from_secs(60);

/// How far a wait goes.
pub(super) fn goal(readiness: Readiness) -> Option<GuestState> {
    match readiness {
        Readiness::None => None,
        Readiness::Reachable => Some(GuestState::Reachable),
        Readiness::Ready => Some(GuestState::Ready),
    }
}

/// Every VM.
#[utoipa::path(get, path = "/v1/vms", responses((status = 200, body = VmList)))]
pub(crate) async fn list(State(state): State<Shared>) -> Json<VmList> {
    let at_work = state.engine.at_work();
    let vms = state
        .engine
        .list()
        .iter()
        .map(|view| convert::vm(&state, view, at_work.get(&view.id)))
        .collect();
    Json(VmList { vms })
}

/// Creates a VM, and starts it unless told not to.
#[utoipa::path(post, path = "/v1/vms", request_body = CreateVmRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn create(
    State(state): State<Shared>,
    Body(request): Body<CreateVmRequest>,
) -> Result<Accepted, Problem> {
    if let Some(name) = request.name.as_ref().filter(|name| name.is_of_builder()) {
        let what = format!("names such as `{name}` belong to builders of images");
        return Err(Failure::new(ErrorCode::InvalidArgument, what).into());
    }
    let asked = Asked {
        vcpu: request.vcpu,
        memory: request.memory_mib,
        disk: request.disk_size,
        nat: request.nat,
    };
    let (mut spec, origins) = effective(asked, &state.config.vm_defaults, state.host);
    let image = request
        .image
        .clone()
        .unwrap_or_else(|| state.default_image.clone());
    known(&state, &image, &request).await?;
    let vmm = request.vmm.unwrap_or(state.config.vmm);
    let (vmm, storage) = choose(vmm, state.config.storage, &state.host_vmms().await)?;
    (spec.vmm, spec.storage) = (vmm.value, storage.value);
    let of_image = image.clone();
    let view = state
        .engine
        .create(CreateVm {
            name: request.name,
            image,
            kernel: request.kernel,
            spec,
            origins,
            start: !request.no_start,
            ephemeral: request.ephemeral,
            work_seed: request.work_seed,
            wait: goal(request.wait.unwrap_or(Readiness::Ready)),
            timeout: request
                .timeout_s
                .map(|seconds| Duration::from_secs(seconds.into())),
        })
        .await?;
    seeds::heal_after(&state, &view.id, of_image);
    Ok(accepted(&state, &view))
}

/// What is asked for exists, or can be made: looked at before anything changes.
async fn known(
    state: &Shared,
    image: &banger_core::ImageName,
    request: &CreateVmRequest,
) -> Result<(), Failure> {
    if state.images.get(image).is_none() && Recipe::load(image).is_err() {
        let (shared, name) = (Shared::clone(state), image.clone());
        let asked = move || shared.catalogs.with_image(&name, None, &Unwatched);
        if blocking(asked).await?.is_none() {
            return Err(unknown_image(&state.images, image));
        }
    }
    match &request.kernel {
        Some(kernel) if state.kernels.get(kernel).is_none() => {
            Err(unknown_kernel(&state.kernels, kernel))
        }
        _ => Ok(()),
    }
}

/// A VM by name, id or unambiguous prefix.
#[utoipa::path(get, path = "/v1/vms/{ref}", params(("ref" = String, Path,)), responses((status = 200, body = Vm)))]
pub(crate) async fn show(
    State(state): State<Shared>,
    Path(reference): Path<String>,
) -> Result<Json<Vm>, Problem> {
    let view = state.engine.resolve(&reference)?;
    let at_work = state.engine.at_work();
    let mut vm = convert::vm(&state, &view, at_work.get(&view.id));
    if has_store(&view) {
        // Without the helper the rest is shown all the same.
        let stores = state.helper.stores().await.unwrap_or_default();
        let mine = stores.into_iter().find(|(id, _)| *id == view.id);
        vm.root_fill = mine.map(|(_, fill)| root_fill(fill));
    }
    vm.warnings = guest::warnings(&state, &view).await;
    Ok(Json(vm))
}

/// Deletes a VM: whatever it does, or only unless it runs.
#[utoipa::path(delete, path = "/v1/vms/{ref}", params(("ref" = String, Path,), DeleteQuery), responses((status = 202, body = Operation)))]
pub(crate) async fn delete(
    State(state): State<Shared>,
    Path(reference): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<Accepted, Problem> {
    let vm = state.engine.resolve(&reference)?.id;
    let view = if query.only_stopped {
        state.engine.delete_stopped(&vm)?
    } else {
        state.engine.delete(&vm)?
    };
    Ok(accepted(&state, &view))
}

/// How long to wait for what.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitQuery {
    /// How far the guest must be.
    pub(super) wait: Option<Readiness>,
    /// Deadline in seconds.
    pub(super) timeout_s: Option<u32>,
}

/// Starts a VM.
#[utoipa::path(post, path = "/v1/vms/{ref}/start", params(("ref" = String, Path,), WaitQuery), responses((status = 202, body = Operation)))]
pub(crate) async fn start(
    State(state): State<Shared>,
    Path(reference): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Accepted, Problem> {
    let vm = state.engine.resolve(&reference)?.id;
    let timeout = query
        .timeout_s
        .map(|seconds| Duration::from_secs(seconds.into()));
    let view = state
        .engine
        .start(&vm, goal(query.wait.unwrap_or(Readiness::Ready)), timeout)?;
    Ok(accepted(&state, &view))
}

/// Stops a VM.
#[utoipa::path(post, path = "/v1/vms/{ref}/stop", params(("ref" = String, Path,)), request_body = StopVmRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn stop(
    State(state): State<Shared>,
    Path(reference): Path<String>,
    Body(request): Body<StopVmRequest>,
) -> Result<Accepted, Problem> {
    let vm = state.engine.resolve(&reference)?.id;
    let grace = request
        .grace_s
        .map_or(GRACE, |seconds| Duration::from_secs(seconds.into()));
    let view = state.engine.stop(&vm, grace)?;
    Ok(accepted(&state, &view))
}

/// What ssh needs for any VM.
#[utoipa::path(get, path = "/v1/ssh", responses((status = 200, body = SshAccess)))]
pub(crate) async fn ssh_access(State(state): State<Shared>) -> Json<SshAccess> {
    Json(SshAccess {
        user: "root".to_owned(),
        identity_file: state.owner_key.display().to_string(),
        known_hosts: known_hosts(&state),
    })
}

fn known_hosts(state: &Shared) -> String {
    let file = state.args.state_dir.join("known_hosts");
    file.display().to_string()
}

/// What ssh needs to log in.
#[utoipa::path(get, path = "/v1/vms/{ref}/ssh", params(("ref" = String, Path,)), responses((status = 200, body = SshTarget)))]
pub(crate) async fn ssh(
    State(state): State<Shared>,
    Path(reference): Path<String>,
) -> Result<Json<SshTarget>, Problem> {
    let view = state.engine.resolve(&reference)?;
    state.staleness.used(&view);
    view.is_awake()?;
    Ok(Json(SshTarget {
        host: view.address.to_string(),
        user: "root".to_owned(),
        identity_file: state.owner_key.display().to_string(),
        known_hosts: known_hosts(&state),
        host_key_alias: format!("{}.vm", view.name),
    }))
}
