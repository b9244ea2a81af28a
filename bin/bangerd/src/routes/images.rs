//! Images.

use axum::Json;
use axum::extract::{Path, State};
use banger_api::{
    BuildImageRequest, Deleted, Image, ImageList, Operation, PullImageRequest, RegisterImageRequest,
};
use banger_core::{ErrorCode, ImageName};
use banger_engine::OpKind;
use banger_engine::ports::Failure;
use banger_image::Recipe;

use super::Problem;
use super::name::parse;
use super::operations::{Accepted, accepted};
use super::problem::Body;
use crate::adapters::{Watch, blocking, unknown_image};
use crate::convert;
use crate::keeping;
use crate::pulls;
use crate::state::Shared;

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
        images: images
            .iter()
            .map(|image| convert::image(image, &state.default_image))
            .collect(),
    }))
}

/// An image.
#[utoipa::path(get, path = "/v1/images/{name}", params(("name" = String, Path,)), responses((status = 200, body = Image)))]
pub(crate) async fn show(
    State(state): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Image>, Problem> {
    let name: ImageName = parse(&name)?;
    let image = state
        .images
        .get(&name)
        .ok_or_else(|| unknown_image(&state.images, &name))?;
    Ok(Json(convert::image(&image, &state.default_image)))
}

/// Builds an image from its recipe; one that exists and is not stale is left alone.
#[utoipa::path(post, path = "/v1/images/build", request_body = BuildImageRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn build(
    State(state): State<Shared>,
    Body(request): Body<BuildImageRequest>,
) -> Result<Accepted, Problem> {
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
    Ok(accepted(&state, &view))
}

/// Pulls an OCI image from a registry, a layout or an archive.
#[utoipa::path(post, path = "/v1/images/pull", request_body = PullImageRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn pull(
    State(state): State<Shared>,
    Body(request): Body<PullImageRequest>,
) -> Result<Accepted, Problem> {
    let request = pulls::planned(&state, request)?;
    let name = request.name.clone();
    let store = state.images.clone();
    let shared = Shared::clone(&state);
    let view = state.engine.run_task(
        OpKind::PullImage,
        name.as_str(),
        move |context| async move {
            tokio::task::block_in_place(|| {
                context.begin("image", &format!("pulling {}", request.reference));
                let pulled = store.pull(&request, &pulls::PullWatch(&context));
                context.end("image", pulled.is_ok());
                if pulled.is_ok() {
                    keeping::discard_old(&shared, &request.name);
                }
                pulled
                    .map(drop)
                    .map_err(|error| pulls::failure(&request.reference, &error))
            })
        },
    );
    Ok(accepted(&state, &view))
}

/// Deletes an image that no VM uses. Files of a registered one are left alone.
#[utoipa::path(delete, path = "/v1/images/{name}", params(("name" = String, Path,)), responses((status = 200, body = Deleted)))]
pub(crate) async fn delete(
    State(state): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Deleted>, Problem> {
    let name: ImageName = parse(&name)?;
    let deleted = name.to_string();
    let freed = blocking(move || keeping::delete_image(&state, &name)).await?;
    Ok(Json(Deleted {
        name: deleted,
        freed,
    }))
}

/// Registers files as an image; they stay where they are.
#[utoipa::path(post, path = "/v1/images/register", request_body = RegisterImageRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn register(
    State(state): State<Shared>,
    Body(request): Body<RegisterImageRequest>,
) -> Result<Accepted, Problem> {
    keeping::checked(&state, &request)?;
    let name = request.name.clone();
    let shared = Shared::clone(&state);
    let view = state.engine.run_task(
        OpKind::RegisterImage,
        name.as_str(),
        move |context| async move {
            tokio::task::block_in_place(|| {
                context.begin("image", &format!("registering {}", request.name));
                let registered = keeping::register(&shared, request, &context);
                context.end("image", registered.is_ok());
                registered
            })
        },
    );
    Ok(accepted(&state, &view))
}

/// Copies a registered image's files into the store.
#[utoipa::path(post, path = "/v1/images/{name}/promote", params(("name" = String, Path,)), responses((status = 202, body = Operation)))]
pub(crate) async fn promote(
    State(state): State<Shared>,
    Path(name): Path<String>,
) -> Result<Accepted, Problem> {
    let name: ImageName = parse(&name)?;
    if state.images.get(&name).is_none() {
        return Err(unknown_image(&state.images, &name).into());
    }
    let store = state.images.clone();
    let subject = name.to_string();
    let view = state
        .engine
        .run_task(OpKind::PromoteImage, &subject, move |context| async move {
            tokio::task::block_in_place(|| {
                context.begin("image", &format!("copying {name}"));
                let promoted = store.promote(&name);
                context.end("image", promoted.is_ok());
                promoted
                    .map(drop)
                    .map_err(|error| keeping::register_failure(&name, "promoted", &error))
            })
        });
    Ok(accepted(&state, &view))
}
