//! The images that a build begins with: found, made or pulled.

use std::collections::BTreeMap;

use banger_api::PullImageRequest;
use banger_build::Config;
use banger_core::{Digest, ErrorCode, ImageName, ImageRef};
use banger_engine::TaskContext;
use banger_engine::ports::Failure;
use banger_image::Image;

use super::still_wanted;
use crate::pulls;
use crate::state::State;

/// An image to begin with.
#[derive(Debug, Clone)]
pub(super) struct BaseImage {
    pub(super) name: ImageName,
    pub(super) digest: Digest,
    pub(super) config: Config,
}

/// All of them, by how they are written.
pub(super) fn resolve(
    state: &State,
    texts: &[String],
    context: &TaskContext,
) -> Result<BTreeMap<String, BaseImage>, Failure> {
    let mut bases = BTreeMap::new();
    for text in texts {
        still_wanted(context)?;
        let image = found(state, text, context)?;
        bases.insert(text.clone(), base(image));
    }
    Ok(bases)
}

fn found(state: &State, text: &str, context: &TaskContext) -> Result<Image, Failure> {
    if ImageRef::is_meant_by(text) {
        let reference: ImageRef =
            text.parse()
                .map_err(|error: banger_core::ParseImageRefError| {
                    Failure::new(ErrorCode::InvalidArgument, error.to_string())
                })?;
        let known = state
            .images
            .list()
            .unwrap_or_default()
            .into_iter()
            .find(|image| {
                let origin = image.record.origin.as_ref();
                origin.is_some_and(|origin| origin.reference == reference)
            });
        if let Some(image) = known {
            return Ok(image);
        }
        let request = pulls::planned(
            state,
            PullImageRequest {
                reference: reference.clone(),
                name: None,
                kernel: None,
                plain_http: false,
            },
        )?;
        return tokio::task::block_in_place(|| {
            let pulled = state.images.pull(&request, &pulls::PullWatch(context));
            pulled.map_err(|error| pulls::failure(&reference, &error))
        });
    }
    let name: ImageName = text.parse().map_err(|error: banger_core::ParseNameError| {
        Failure::new(ErrorCode::InvalidArgument, error.to_string())
    })?;
    let found = tokio::task::block_in_place(|| state.local_images.find_or_build(&name, context));
    found.map_err(|failure| match failure.code {
        ErrorCode::ImageNotFound => failure.hint(format!(
            "a reference such as `{name}:latest` is pulled from a registry"
        )),
        _ => failure,
    })
}

fn base(image: Image) -> BaseImage {
    let mut config = Config::default();
    if let Some(run) = image.config() {
        config.entrypoint.clone_from(&run.entrypoint);
        config.cmd.clone_from(&run.cmd);
        config.user.clone_from(&run.user);
        config.working_dir.clone_from(&run.working_dir);
        config.exposed_ports.clone_from(&run.exposed_ports);
        config.stop_signal.clone_from(&run.stop_signal);
        for variable in &run.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            config.set_env(name, value.to_owned());
        }
    }
    if let Some(built) = &image.record.built {
        config.labels.clone_from(&built.labels);
        config.volumes.clone_from(&built.volumes);
    }
    BaseImage {
        name: image.record.name,
        digest: image.record.digest,
        config,
    }
}
