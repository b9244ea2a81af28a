//! Images.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use banger_api::{BuildImageRequest, Image, ImageList, Operation, PullImageRequest};
use banger_core::{ErrorCode, ImageName};
use banger_engine::OpKind;
use banger_engine::ports::Failure;
use banger_image::Recipe;

use super::Problem;
use super::problem::Body;
use crate::adapters::{Watch, unknown_image};
use crate::convert;
use crate::pulls;
use crate::state::Shared;

fn parse(name: &str) -> Result<ImageName, Failure> {
    name.parse().map_err(|error: banger_core::ParseNameError| {
        Failure::new(ErrorCode::InvalidArgument, error.to_string())
    })
}

/// Every image.
#[utoipa::path(get, path = "/v1/images", responses((status = 200, body = ImageList)))]
pub(crate) async fn list(State(state): State<Shared>) -> Result<Json<ImageList>, Problem> {
    let broken = |error: std::io::Error| {
        Failure::because(
            ErrorCode::Internal,
            "the image store cannot be read",
            &error,
        )
    };
    let images = state.images.list().map_err(broken)?;
    Ok(Json(ImageList {
        images: images.iter().map(convert::image).collect(),
    }))
}

/// An image.
#[utoipa::path(get, path = "/v1/images/{name}", params(("name" = String, Path,)), responses((status = 200, body = Image)))]
pub(crate) async fn show(
    State(state): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Image>, Problem> {
    let name = parse(&name)?;
    let image = state
        .images
        .get(&name)
        .ok_or_else(|| unknown_image(&state.images, &name))?;
    Ok(Json(convert::image(&image)))
}

/// Builds an image from its recipe; one that exists and is not stale is left alone.
#[utoipa::path(post, path = "/v1/images/build", request_body = BuildImageRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn build(
    State(state): State<Shared>,
    Body(request): Body<BuildImageRequest>,
) -> Result<(StatusCode, Json<Operation>), Problem> {
    let name = request.name.unwrap_or_else(|| state.default_image.clone());
    let recipe = Recipe::load(&name).map_err(|_| {
        let failure = Failure::new(
            ErrorCode::ImageNotFound,
            format!("there is no recipe `{name}`"),
        );
        failure.hint(format!(
            "recipes: {}",
            Recipe::names().collect::<Vec<_>>().join(", ")
        ))
    })?;
    let (store, log) = (
        state.images.clone(),
        state.build_log(&format!("image-{name}")),
    );
    let force = request.force;
    let builder = state.builder.clone();
    let view = state.engine.run_task(
        OpKind::BuildImage,
        name.as_str(),
        move |context| async move {
            tokio::task::block_in_place(|| {
                let current = store.get(&recipe.name).filter(|image| !image.is_stale());
                if current.is_some() && !force {
                    return Ok(());
                }
                context.begin("image", &format!("building {}", recipe.name));
                let built = builder.build(&store, &recipe, &log, &Watch(&context));
                context.end("image", built.is_ok());
                built
            })
        },
    );
    Ok((
        StatusCode::ACCEPTED,
        Json(convert::operation(&state, &view)),
    ))
}

/// Pulls an OCI image from a registry, a layout or an archive.
#[utoipa::path(post, path = "/v1/images/pull", request_body = PullImageRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn pull(
    State(state): State<Shared>,
    Body(request): Body<PullImageRequest>,
) -> Result<(StatusCode, Json<Operation>), Problem> {
    let request = pulls::planned(&state, request)?;
    let name = request.name.clone();
    let store = state.images.clone();
    let view = state.engine.run_task(
        OpKind::PullImage,
        name.as_str(),
        move |context| async move {
            tokio::task::block_in_place(|| {
                context.begin("image", &format!("pulling {}", request.reference));
                let pulled = store.pull(&request, &pulls::PullWatch(&context));
                context.end("image", pulled.is_ok());
                pulled
                    .map(drop)
                    .map_err(|error| pulls::failure(&request.reference, &error))
            })
        },
    );
    Ok((
        StatusCode::ACCEPTED,
        Json(convert::operation(&state, &view)),
    ))
}
