//! Pulling images: what is asked for, checked, and what went wrong, told.

use std::path::PathBuf;

use banger_api::PullImageRequest;
use banger_core::{ErrorCode, ImageRef};
use banger_engine::ports::{Failure, Progress};
use banger_image::{PullRequest, Recipe};
use banger_oci::{AuthFiles, PullError, Registries, RegistryError, Watch};

use crate::adapters::unknown_kernel;
use crate::state::State;

/// A pull's watcher over the engine's progress.
pub(crate) struct PullWatch<'a>(pub(crate) &'a dyn Progress);

impl Watch for PullWatch<'_> {
    fn step(&self, title: &str) {
        self.0.part(title);
    }

    fn line(&self, text: &str) {
        self.0.line(text);
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

/// Folders of the certificates of servers' own authorities.
pub(crate) fn certificates() -> Vec<PathBuf> {
    let mut folders = vec![
        "/etc/containers/certs.d".into(),
        "/etc/docker/certs.d".into(),
    ];
    let home = std::env::home_dir();
    folders.extend(home.map(|home| home.join(".config/containers/certs.d")));
    folders
}

/// The request with everything decided.
pub(crate) fn planned(state: &State, request: PullImageRequest) -> Result<PullRequest, Failure> {
    let PullImageRequest {
        reference,
        name,
        kernel,
        plain_http,
    } = request;
    if let ImageRef::Layout { path, .. }
    | ImageRef::OciArchive { path, .. }
    | ImageRef::DockerArchive { path, .. } = &reference
        && !path.is_absolute()
    {
        let what = format!("the path of `{reference}` is not absolute");
        return Err(Failure::new(ErrorCode::InvalidArgument, what));
    }
    if let Some(kernel) = &kernel
        && state.kernels.get(kernel).is_none()
    {
        return Err(unknown_kernel(&state.kernels, kernel));
    }
    let name = match name {
        Some(name) => name,
        None => {
            let derived = reference.derived_name().map_err(|error| {
                Failure::new(ErrorCode::InvalidArgument, error.to_string())
                    .hint("give the image a name: --name NAME")
            })?;
            // A name that nobody chose replaces no other image, nor the one that a recipe makes.
            let is_recipe = Recipe::load(&derived).is_ok();
            let holder = state.images.get(&derived);
            let is_same = holder.as_ref().is_some_and(|image| {
                let origin = image.record.origin.as_ref();
                origin.is_some_and(|origin| origin.reference.is_same_place(&reference))
            });
            if (holder.is_some() && !is_same) || (is_recipe && holder.is_none()) {
                let whose = if is_recipe {
                    "banger's own image"
                } else {
                    "another image"
                };
                let what = format!("the name `{derived}` belongs to {whose}");
                return Err(Failure::new(ErrorCode::NameTaken, what)
                    .hint("give this one another name: --name NAME"));
            }
            derived
        }
    };
    let environment = |name: &str| std::env::var(name).ok();
    let registries = Registries::usual(environment).map_err(|error| failure(&reference, &error))?;
    Ok(PullRequest {
        reference,
        name,
        kernel,
        plain_http,
        auth: AuthFiles::usual(environment),
        certificates: certificates(),
        registries,
    })
}

/// A failed pull as a failure.
pub(crate) fn failure(reference: &ImageRef, error: &PullError) -> Failure {
    let code = match error {
        _ if error.is_disk_full() => ErrorCode::DiskFull,
        PullError::Cancelled => ErrorCode::Cancelled,
        PullError::Registry(RegistryError::NotFound { .. }) => ErrorCode::ImageNotFound,
        _ => ErrorCode::ImagePullFailed,
    };
    let failure = Failure::because(code, format!("`{reference}` could not be pulled"), error);
    match error {
        _ if code == ErrorCode::DiskFull => failure.hint("make room, and pull again: layers that came whole are kept"),
        PullError::Registry(RegistryError::Unauthorized { host, .. }) => {
            failure.hint(format!("log in: docker login {host}, or podman login {host}"))
        }
        PullError::Registry(RegistryError::Busy { .. } | RegistryError::Stalled { .. } | RegistryError::Truncated { .. }) => {
            failure.hint("pull again later: layers that came whole are kept")
        }
        PullError::Registry(RegistryError::Unreachable { .. }) => failure.hint(
            "check the name and the network; certificates of your own belong into /etc/containers/certs.d/HOST:PORT/*.crt, and plain HTTP needs --plain-http",
        ),
        _ => failure,
    }
}
