//! The daemon itself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONNECTION;
use axum::response::IntoResponse;
use banger_api::{API_VERSION, Component, DaemonStatus, Doctor, HelperStatus, Version};
use banger_core::Phase;

use crate::state::Shared;
use crate::{doctor, start};

/// Builds of daemon and helper.
#[utoipa::path(get, path = "/v1/version", responses((status = 200, body = Version)))]
pub(crate) async fn version(State(state): State<Shared>) -> Json<Version> {
    Json(version_of(&state).await)
}

async fn version_of(state: &Shared) -> Version {
    let version = ask_version(state).await;
    // A helper that came after the daemon: now what exists can be compared with what is stored.
    if version.helper.available {
        start::taken_up(state).await;
    }
    version
}

async fn ask_version(state: &Shared) -> Version {
    let socket = state.args.helper_socket.display().to_string();
    let wanted = state.wants_helper();
    let helper = match state.helper.info().await {
        Ok(info) => HelperStatus {
            available: true,
            wanted,
            version: Some(info.version),
            pid: Some(info.pid),
            socket,
            problem: None,
        },
        Err(failure) => {
            let problem = Some(failure.in_full());
            HelperStatus {
                available: false,
                wanted,
                version: None,
                pid: None,
                socket,
                problem,
            }
        }
    };
    Version {
        api_max: API_VERSION,
        api_min: API_VERSION,
        daemon: Component {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: state.build.clone(),
            pid: std::process::id(),
        },
        helper,
    }
}

/// The daemon's state.
#[utoipa::path(get, path = "/v1/daemon", responses((status = 200, body = DaemonStatus)))]
pub(crate) async fn daemon(State(state): State<Shared>) -> Json<DaemonStatus> {
    let vms = state.engine.list();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Json(DaemonStatus {
        version: version_of(&state).await,
        socket: state.args.socket.display().to_string(),
        log: state
            .args
            .state_dir
            .join("bangerd.log")
            .display()
            .to_string(),
        dns: state.dns.to_string(),
        state_dir: state.args.state_dir.display().to_string(),
        running_vms: count(vms.iter().filter(|vm| vm.phase == Phase::Running).count()),
        vms: count(vms.len()),
        started_at: state.started_at.clone(),
        problems: state.problems(),
    })
}

/// Ends the daemon. VMs go on; without any, the network is taken down as well.
#[utoipa::path(post, path = "/v1/daemon/stop", responses((status = 202)))]
pub(crate) async fn stop(State(state): State<Shared>) -> impl IntoResponse {
    if let Err(failure) = state.helper.remove_network().await {
        tracing::info!(%failure, "the network stays");
    }
    state.stop.ask();
    // The last answer on this connection: when it is out, the daemon ends.
    (StatusCode::ACCEPTED, [(CONNECTION, "close")])
}

/// What this host has and lacks.
#[utoipa::path(get, path = "/v1/doctor", responses((status = 200, body = Doctor)))]
pub(crate) async fn doctor(State(state): State<Shared>) -> Json<Doctor> {
    Json(doctor::examine(&state).await)
}
