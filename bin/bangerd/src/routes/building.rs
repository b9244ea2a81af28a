//! Building images on top of others.

use axum::Json;
use axum::extract::{Path, State};
use banger_api::{BuildOnRequest, GoOnRequest, Operation};
use banger_core::ErrorCode;
use banger_engine::OpKind;
use banger_engine::ports::Failure;
use banger_image::Recipe;

use super::Problem;
use super::operations::{Accepted, accepted, parse};
use super::problem::Body;
use crate::building::{self, Order};
use crate::convert;
use crate::state::Shared;

/// Builds an image on top of another one, in a VM of its own.
#[utoipa::path(post, path = "/v1/images/build-on", request_body = BuildOnRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn build_on(
    State(state): State<Shared>,
    Body(request): Body<BuildOnRequest>,
) -> Result<Accepted, Problem> {
    if Recipe::load(&request.name).is_ok() {
        let what = format!("the name `{}` belongs to banger's own image", request.name);
        return Err(Failure::new(ErrorCode::NameTaken, what)
            .hint("give this one another name")
            .into());
    }
    let order = Order::of(request)?;
    let subject = order.name.to_string();
    let shared = Shared::clone(&state);
    let view = state
        .engine
        .run_task(OpKind::BuildImage, &subject, move |context| {
            building::build(shared, order, context)
        });
    Ok(accepted(&state, &view))
}

/// Lets a build that waits for somebody go on.
#[utoipa::path(post, path = "/v1/operations/{id}/go-on", params(("id" = String, Path,)), request_body = GoOnRequest, responses((status = 200, body = Operation)))]
pub(crate) async fn go_on(
    State(state): State<Shared>,
    Path(id): Path<String>,
    Body(request): Body<GoOnRequest>,
) -> Result<Json<Operation>, Problem> {
    let view = state.engine.operation(&parse(&id)?).await?;
    state.waiting.go_on(&view.subject, request.keep)?;
    Ok(Json(convert::operation(&state, &view)))
}
