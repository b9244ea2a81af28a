//! Kernels.

use axum::Json;
use axum::extract::{Path, State};
use banger_api::{Deleted, ImportKernelRequest, Kernel, KernelList, KernelSource, Operation};
use banger_core::{ErrorCode, KernelName};
use banger_engine::OpKind;
use banger_engine::ports::{Failure, Progress};
use banger_kernel::{ImportRequest, Source};

use super::Problem;
use super::name::parse;
use super::operations::{Accepted, accepted};
use super::problem::Body;
use crate::adapters::{blocking, import_failure, unknown_kernel};
use crate::convert;
use crate::keeping;
use crate::state::Shared;

fn broken(error: std::io::Error) -> Failure {
    Failure::because(
        ErrorCode::Internal,
        "the kernel store cannot be read",
        &error,
    )
}

/// Every kernel.
#[utoipa::path(get, path = "/v1/kernels", responses((status = 200, body = KernelList)))]
pub(crate) async fn list(State(state): State<Shared>) -> Result<Json<KernelList>, Problem> {
    let kernels = state.kernels.list().map_err(broken)?;
    let default = state.kernels.default_kernel().map_err(broken)?;
    let kernels = kernels
        .iter()
        .map(|kernel| convert::kernel(kernel, default.as_ref()))
        .collect();
    Ok(Json(KernelList { kernels }))
}

/// A kernel.
#[utoipa::path(get, path = "/v1/kernels/{name}", params(("name" = String, Path,)), responses((status = 200, body = Kernel)))]
pub(crate) async fn show(
    State(state): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Kernel>, Problem> {
    let name: KernelName = parse(&name)?;
    let kernel = state
        .kernels
        .get(&name)
        .ok_or_else(|| unknown_kernel(&state.kernels, &name))?;
    let default = state.kernels.default_kernel().map_err(broken)?;
    Ok(Json(convert::kernel(&kernel, default.as_ref())))
}

/// Deletes a kernel that no VM and no image uses.
#[utoipa::path(delete, path = "/v1/kernels/{name}", params(("name" = String, Path,)), responses((status = 200, body = Deleted)))]
pub(crate) async fn delete(
    State(state): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Deleted>, Problem> {
    let name: KernelName = parse(&name)?;
    let deleted = name.to_string();
    let freed = blocking(move || keeping::delete_kernel(&state, &name)).await?;
    Ok(Json(Deleted {
        name: deleted,
        freed,
    }))
}

/// Imports a kernel.
#[utoipa::path(post, path = "/v1/kernels/import", request_body = ImportKernelRequest, responses((status = 202, body = Operation)))]
pub(crate) async fn import(
    State(state): State<Shared>,
    Body(request): Body<ImportKernelRequest>,
) -> Result<Accepted, Problem> {
    let source = match request.source {
        KernelSource::Package { package } => {
            Source::Package(package.map(package_name).transpose()?)
        }
        KernelSource::Host {} => Source::Host,
        KernelSource::File { path, modules } => Source::File {
            path: path.into(),
            modules: modules.map(Into::into),
        },
    };
    let subject = request
        .name
        .as_ref()
        .map_or_else(|| "kernel".to_owned(), ToString::to_string);
    let import = ImportRequest {
        name: request.name,
        source,
        replace: false,
        initrd: None,
        of_image: None,
    };
    let store = state.kernels.clone();
    let view = state
        .engine
        .run_task(OpKind::ImportKernel, &subject, move |context| async move {
            tokio::task::block_in_place(|| {
                context.begin("import", "importing the kernel");
                let imported =
                    store.import(&import, &|line| context.line(line), &|| context.cancelled());
                context.end("import", imported.is_ok());
                imported.map(drop).map_err(|error| import_failure(&error))
            })
        });
    Ok(accepted(&state, &view))
}

/// A package's name becomes an argument of the package manager: nothing but what Debian allows there.
fn package_name(name: String) -> Result<String, Failure> {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    let starts_well = name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if starts_well && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(Failure::new(
        ErrorCode::InvalidArgument,
        format!("`{}` is no package name", name.escape_default()),
    ))
}
