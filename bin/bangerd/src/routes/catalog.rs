//! The configured catalog.

use axum::Json;
use axum::extract::{Path, State};
use banger_api::{
    Availability, AvailableImage, AvailableKernel, CatalogView, Operation, PullFromCatalogRequest,
};
use banger_catalog::{Catalog, CatalogImage, CatalogKernel};
use banger_core::{ImageName, KernelName};
use banger_engine::OpKind;
use banger_engine::ports::{Failure, Progress, Unwatched};
use banger_image::Recipe;

use super::Problem;
use super::name::parse;
use super::operations::{Accepted, accepted};
use super::problem::Body;
use crate::adapters::{Watch, blocking, unknown_kernel};
use crate::catalogs;
use crate::keeping;
use crate::state::{Shared, State as Daemon};

/// What the catalog has for this machine. It is read anew each time.
#[utoipa::path(get, path = "/v1/catalog", responses((status = 200, body = CatalogView)))]
pub(crate) async fn show(State(state): State<Shared>) -> Result<Json<CatalogView>, Problem> {
    let view = blocking(move || {
        let catalog = state.catalogs.require(&Unwatched)?;
        Ok(view(&state, &catalog))
    });
    Ok(Json(view.await?))
}

fn view(state: &Daemon, catalog: &Catalog) -> CatalogView {
    let index = catalog.index();
    let is_ours = |architecture: &str| architecture == std::env::consts::ARCH;
    let images = index.images.iter();
    let images = images.filter(|image| is_ours(&image.architecture));
    let kernels = index.kernels.iter();
    let kernels = kernels.filter(|kernel| is_ours(&kernel.architecture));
    CatalogView {
        location: catalog.location().to_string(),
        created_at: index.created_at.clone(),
        images: images.map(|image| available_image(state, image)).collect(),
        kernels: kernels
            .map(|kernel| available_kernel(state, kernel))
            .collect(),
    }
}

fn compared(here: Option<&banger_core::Digest>, there: &banger_core::Digest) -> Availability {
    match here {
        None => Availability::Absent,
        Some(here) if here == there => Availability::Present,
        Some(_) => Availability::Other,
    }
}

fn available_image(state: &Daemon, image: &CatalogImage) -> AvailableImage {
    let here = state.images.get(&image.name);
    let here = here.as_ref().map(|image| &image.record.digest);
    AvailableImage {
        name: image.name.to_string(),
        digest: image.digest.to_string(),
        created_at: image.created_at.clone(),
        download: image.files().map(|file| file.blob_size).sum(),
        size: image.rootfs.size,
        kernel: image.kernel.as_ref().map(ToString::to_string),
        contents: image.contents.clone(),
        state: compared(here, &image.digest),
    }
}

fn available_kernel(state: &Daemon, kernel: &CatalogKernel) -> AvailableKernel {
    let here = state.kernels.get(&kernel.name);
    let here = here.as_ref().map(|kernel| &kernel.record.digest);
    AvailableKernel {
        name: kernel.name.to_string(),
        release: kernel.release.clone(),
        digest: kernel.digest.to_string(),
        source: kernel.source.clone(),
        created_at: kernel.created_at.clone(),
        download: kernel.files().map(|file| file.blob_size).sum(),
        state: compared(here, &kernel.digest),
    }
}

/// Takes an image from the catalog. One of banger's own recipes that the catalog does not have is built.
#[utoipa::path(post, path = "/v1/catalog/images/{name}", params(("name" = String, Path,)), request_body = PullFromCatalogRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn pull_image(
    State(state): State<Shared>,
    Path(name): Path<String>,
    Body(request): Body<PullFromCatalogRequest>,
) -> Result<Accepted, Problem> {
    let name: ImageName = parse(&name)?;
    let to = keeping::place_in_store(&state, &name, request.name.as_ref())?;
    if let Some(kernel) = &request.kernel
        && state.kernels.get(kernel).is_none()
    {
        return Err(unknown_kernel(&state.kernels, kernel).into());
    }
    let is_plain = request.name.is_none() && request.kernel.is_none();
    let shared = Shared::clone(&state);
    let subject = to.to_string();
    let view = state
        .engine
        .run_task(OpKind::PullImage, &subject, move |context| async move {
            tokio::task::block_in_place(|| {
                context.begin("image", &format!("pulling {name}"));
                let recipe = Recipe::load(&name).ok().filter(|_| is_plain);
                let pulled = take_or_build(&shared, &name, &to, request.kernel, recipe, &context);
                context.end("image", pulled.is_ok());
                // A kernel of an image that did not come, or of its older self.
                keeping::discard_kernels_of(&shared, &to);
                if pulled.is_ok() {
                    keeping::discard_old(&shared, &to);
                }
                pulled
            })
        });
    Ok(accepted(&state, &view))
}

/// Takes what the catalog has; what it does not have is built, when there is a recipe and its image is missing or
/// older.
fn take_or_build(
    state: &Daemon,
    name: &ImageName,
    to: &ImageName,
    kernel: Option<KernelName>,
    recipe: Option<Recipe>,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let opened = state.catalogs.open(progress);
    let opened = opened.map_err(|error| catalogs::failure(&error))?;
    let has = |catalog: &Catalog| catalog.image(name).is_ok();
    if let Some(recipe) = recipe.filter(|_| !opened.as_ref().is_some_and(has)) {
        let here = state.images.get(name);
        if here.is_some_and(|image| !image.is_stale()) {
            return Ok(());
        }
        let log = state.build_log(&format!("image-{name}"));
        let watch = Watch(progress);
        return state.builder.build(&state.images, &recipe, &log, &watch);
    }
    let catalog = opened.ok_or_else(catalogs::not_configured)?;
    let taken = state
        .catalogs
        .take_image(&catalog, name, to, kernel, progress);
    taken.map(drop)
}

/// Takes a kernel from the catalog.
#[utoipa::path(post, path = "/v1/catalog/kernels/{name}", params(("name" = String, Path,)), responses((status = 202, body = Operation)))]
pub(crate) async fn pull_kernel(
    State(state): State<Shared>,
    Path(name): Path<String>,
) -> Result<Accepted, Problem> {
    let name: KernelName = parse(&name)?;
    let shared = Shared::clone(&state);
    let subject = name.to_string();
    let view = state
        .engine
        .run_task(OpKind::ImportKernel, &subject, move |context| async move {
            tokio::task::block_in_place(|| {
                context.begin("import", &format!("pulling the kernel {name}"));
                let catalogs = &shared.catalogs;
                let pulled = catalogs
                    .require(&context)
                    .and_then(|catalog| catalogs.take_kernel(&catalog, &name, None, &context));
                context.end("import", pulled.is_ok());
                pulled.map(drop)
            })
        });
    Ok(accepted(&state, &view))
}
