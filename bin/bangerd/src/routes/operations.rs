//! Operations and their events.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_api::{Operation, OperationEvent, Stage, StageState};
use banger_core::{ErrorCode, OpId};
use banger_engine::ports::Failure;
use banger_engine::{OpState, OperationView};
use bytes::Bytes;
use futures_util::stream;

use super::Problem;
use crate::convert;
use crate::state::{Shared, State as Daemon};

/// The answer to a wish: the operation that it has begun.
pub(super) type Accepted = (StatusCode, Json<Operation>);

/// Answers with an operation that goes on.
pub(super) fn accepted(state: &Daemon, view: &OperationView) -> Accepted {
    (StatusCode::ACCEPTED, Json(convert::operation(state, view)))
}

pub(super) fn parse(id: &str) -> Result<OpId, Failure> {
    let unknown = || {
        let shown: String = id.chars().take(40).flat_map(char::escape_default).collect();
        Failure::new(
            ErrorCode::OperationNotFound,
            format!("there is no operation `{shown}`"),
        )
    };
    id.parse().map_err(|_| unknown())
}

/// An operation, also one of an earlier daemon's life.
#[utoipa::path(get, path = "/v1/operations/{id}", params(("id" = String, Path,)), responses((status = 200, body = Operation)))]
pub(crate) async fn show(
    State(state): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Operation>, Problem> {
    let view = state.engine.operation(&parse(&id)?).await?;
    Ok(Json(convert::operation(&state, &view)))
}

/// Cancels an operation; a create's VM is deleted.
#[utoipa::path(delete, path = "/v1/operations/{id}", params(("id" = String, Path,)), responses((status = 200, body = Operation)))]
pub(crate) async fn cancel(
    State(state): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Operation>, Problem> {
    let view = state.engine.cancel(&parse(&id)?)?;
    Ok(Json(convert::operation(&state, &view)))
}

/// An operation's events as they happen, one JSON object a line, from the first.
#[utoipa::path(get, path = "/v1/operations/{id}/events", params(("id" = String, Path,)), responses((status = 200, content_type = "application/x-ndjson", body = OperationEvent)))]
pub(crate) async fn events(
    State(state): State<Shared>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    let ndjson = [(CONTENT_TYPE, "application/x-ndjson")];
    let Some(watch) = state.engine.watch(&id) else {
        // An earlier daemon's: all of it has happened.
        let view = state.engine.operation(&id).await?;
        let told = lines_for(None, &convert::operation(&state, &view), true);
        return Ok((ndjson, told).into_response());
    };
    let start = (state, watch, None::<Operation>, false);
    let lines = stream::unfold(start, |(state, mut watch, told, done)| async move {
        if done {
            return None;
        }
        loop {
            let view = watch.borrow_and_update().clone();
            let now = convert::operation(&state, &view);
            let is_final = view.state != OpState::Running;
            let text = lines_for(told.as_ref(), &now, is_final);
            if !text.is_empty() {
                return Some((
                    Ok::<_, std::io::Error>(Bytes::from(text)),
                    (state, watch, Some(now), is_final),
                ));
            }
            if watch.changed().await.is_err() {
                return None;
            }
        }
    });
    Ok((ndjson, Body::from_stream(lines)).into_response())
}

/// What has happened since `told`.
fn lines_for(told: Option<&Operation>, now: &Operation, is_final: bool) -> String {
    let mut events = Vec::new();
    match told {
        None => events.push(OperationEvent::Snapshot {
            operation: now.clone(),
        }),
        Some(told) => {
            let is_new = |(at, stage): &(usize, &Stage)| {
                !told.stages.get(*at).is_some_and(|old| {
                    old.state == stage.state && old.detail == stage.detail && old.key == stage.key
                })
            };
            let changed = now.stages.iter().enumerate().filter(is_new);
            let mut changed: Vec<&Stage> = changed.map(|(_, stage)| stage).collect();
            // A stage ends after its parts, also where both are told at once.
            changed.sort_by_key(|stage| {
                stage.state != StageState::Running && !stage.key.contains('.')
            });
            events.extend(changed.into_iter().map(|stage| OperationEvent::Stage {
                stage: stage.clone(),
            }));
        }
    }
    if is_final {
        events.push(OperationEvent::Finished {
            operation: now.clone(),
        });
    }
    let line = |event| {
        serde_json::to_string(event)
            .map(|json| json + "\n")
            .unwrap_or_default()
    };
    events.iter().map(line).collect()
}
