//! What VMs use, for people and for scrapers.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_api::{ApiError, RootFill, StatsList, VmStats};
use banger_core::{ErrorCode, VmId};
use banger_engine::VmView;
use futures_util::stream::{self, StreamExt};

use super::Problem;
use crate::state::Shared;
use crate::stats;
use crate::stores::{has_store, root_fill};

/// So many VMs are looked at side by side.
const AT_ONCE: usize = 32;

/// The media type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every VM's figures.
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = StatsList)))]
pub(crate) async fn list(State(state): State<Shared>) -> Json<StatsList> {
    let oldest = stats::stats_age(&state.config);
    let views = state.engine.list();
    let vms = all(&state, &views, oldest).await;
    Json(StatsList { vms })
}

/// A VM's figures.
#[utoipa::path(get, path = "/v1/vms/{ref}/stats", params(("ref" = String, Path,)), responses((status = 200, body = VmStats)))]
pub(crate) async fn show(
    State(state): State<Shared>,
    Path(reference): Path<String>,
) -> Result<Json<VmStats>, Problem> {
    let oldest = stats::stats_age(&state.config);
    let view = state.engine.resolve(&reference)?;
    let mut vms = all(&state, &[view], oldest).await;
    let gone = || {
        ApiError::new(
            ErrorCode::VmNotFound,
            format!("there is no VM `{reference}`"),
        )
    };
    vms.pop().map(Json).ok_or_else(|| Problem(gone()))
}

/// The figures as OpenMetrics text, for Prometheus and its like.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "application/openmetrics-text")))]
pub(crate) async fn metrics(State(state): State<Shared>) -> Result<Response, Problem> {
    let oldest = stats::metrics_age(&state.config);
    let views = state.engine.list();
    let vms = all(&state, &views, oldest).await;
    let text = stats::render(&vms, env!("CARGO_PKG_VERSION")).map_err(|error| {
        let what = format!("the figures could not be written: {error}");
        Problem(ApiError::new(ErrorCode::Internal, what))
    })?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

async fn all(state: &Shared, views: &[VmView], oldest: Duration) -> Vec<VmStats> {
    let stores = if views.iter().any(has_store) {
        // Without the helper the rest is shown all the same.
        state.helper.stores().await.unwrap_or_default()
    } else {
        vec![]
    };
    let fill = |vm: &VmId| -> Option<RootFill> {
        let mine = stores.iter().find(|(id, _)| id == vm);
        mine.map(|(_, fill)| root_fill(*fill))
    };
    state.sampler.keep(&state.engine.list());
    let looks = views.iter().map(|view| {
        let (view, fill) = (view.clone(), fill(&view.id));
        let state = Arc::clone(state);
        async move {
            let folder = state.vm_folder(&view.id);
            state.sampler.sample(&view, &folder, fill, oldest).await
        }
    });
    let looks: Vec<_> = looks.collect();
    stream::iter(looks).buffered(AT_ONCE).collect().await
}
