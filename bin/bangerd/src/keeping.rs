//! Registering, promoting and deleting images and kernels: who uses them, and what went wrong, told.

use std::path::PathBuf;

use banger_api::RegisterImageRequest;
use banger_core::{Digest, ErrorCode, ImageName, KernelName};
use banger_engine::VmView;
use banger_engine::ports::{Failure, Progress};
use banger_image::{RegisterError, RegisterRequest};
use banger_kernel::{ImportRequest, Source, forget_initrd};

use crate::adapters::{import_failure, unknown_image, unknown_kernel};
use crate::state::State;

/// The VMs over an image, for people.
fn users_of_image(vms: &[VmView], image: &ImageName) -> Vec<String> {
    let using = vms.iter().filter(|vm| vm.image == *image);
    using.map(|vm| format!("the VM `{}`", vm.name)).collect()
}

/// The VMs with a kernel, and those that may be about to get it, for people.
fn users_of_kernel(vms: &[VmView], kernel: &KernelName) -> Vec<String> {
    let is_user = |vm: &&VmView| vm.kernel.as_ref().is_none_or(|name| name == kernel);
    let using = vms.iter().filter(is_user);
    using.map(|vm| format!("the VM `{}`", vm.name)).collect()
}

/// Artefacts of an image that VMs were made from; `None` while that is not known of one.
fn kept_for(vms: &[VmView], image: &ImageName) -> Option<Vec<Digest>> {
    let using = vms.iter().filter(|vm| vm.image == *image);
    using.map(|vm| vm.image_digest.clone()).collect()
}

fn in_use(what: &str, users: &[String]) -> Failure {
    let message = format!("{what} is used by {}", users.join(", "));
    Failure::new(ErrorCode::InUse, message).hint("delete what uses it first")
}

/// Deletes an image. Gives the bytes that became free.
pub(crate) fn delete_image(state: &State, name: &ImageName) -> Result<u64, Failure> {
    use banger_image::DeleteError;
    let users = || users_of_image(&state.engine.list(), name);
    let freed = state.images.delete(name, users).map_err(|error| {
        let what = format!("the image `{name}` could not be deleted");
        match &error {
            DeleteError::NotFound(_) => unknown_image(&state.images, name),
            DeleteError::InUse(users) => in_use(&format!("the image `{name}`"), users),
            DeleteError::Busy => Failure::because(ErrorCode::InUse, what, &error),
            DeleteError::Io(_) => Failure::because(ErrorCode::Internal, what, &error),
        }
    })?;
    Ok(freed + discard_kernels_of(state, name))
}

/// The name that an image of a catalog gets here. One that nobody chose replaces no image that somebody pulled or
/// registered.
pub(crate) fn place_in_store(
    state: &State,
    name: &ImageName,
    chosen: Option<&ImageName>,
) -> Result<ImageName, Failure> {
    if let Some(chosen) = chosen {
        return Ok(chosen.clone());
    }
    let holder = state.images.get(name);
    let is_anothers = holder.is_some_and(|image| {
        let record = &image.record;
        record.catalog.is_none() && (record.origin.is_some() || record.elsewhere.is_some())
    });
    if is_anothers {
        let what = format!("the name `{name}` belongs to an image that was pulled or registered");
        return Err(Failure::new(ErrorCode::NameTaken, what)
            .hint("give this one another name: --name NAME"));
    }
    Ok(name.clone())
}

/// Deletes the kernels that came with an image and that nothing uses any more.
pub(crate) fn discard_kernels_of(state: &State, image: &ImageName) -> u64 {
    let kernels = state.kernels.list().unwrap_or_default().into_iter();
    let its = kernels.filter(|kernel| kernel.record.of_image.as_ref() == Some(image));
    // One that is in use stays.
    its.filter_map(|kernel| delete_kernel(state, &kernel.record.name).ok())
        .sum()
}

/// Removes what an image does not mean any more and no VM was made from.
pub(crate) fn discard_old(state: &State, name: &ImageName) {
    let keep = || kept_for(&state.engine.list(), name);
    if let Err(error) = state.images.discard_old(name, keep) {
        tracing::warn!(image = %name, "older artefacts could not be removed: {error}");
    }
}

/// Deletes a kernel. Gives the bytes that became free.
pub(crate) fn delete_kernel(state: &State, name: &KernelName) -> Result<u64, Failure> {
    use banger_kernel::DeleteError;
    let kernel = state.kernels.get(name);
    let images = state.images.list().unwrap_or_default();
    let users = || {
        let mut users = users_of_kernel(&state.engine.list(), name);
        let asking = images.iter().map(|image| &image.record);
        let asking = asking.filter(|image| image.kernel.as_ref() == Some(name));
        users.extend(asking.map(|image| format!("the image `{}`", image.name)));
        users
    };
    let freed = state.kernels.delete(name, users).map_err(|error| {
        let what = format!("the kernel `{name}` could not be deleted");
        match &error {
            DeleteError::NotFound(_) => unknown_kernel(&state.kernels, name),
            DeleteError::InUse(users) => in_use(&format!("the kernel `{name}`"), users),
            DeleteError::Io(_) => Failure::because(ErrorCode::Internal, what, &error),
        }
    })?;
    if let Some(kernel) = kernel {
        forget_initrd(
            &state.args.state_dir.join("initrd"),
            &kernel,
            &state.args.agent,
        );
    }
    Ok(freed)
}

/// What is asked for, checked as far as the words go.
pub(crate) fn checked(state: &State, request: &RegisterImageRequest) -> Result<(), Failure> {
    let invalid = |what: String| Failure::new(ErrorCode::InvalidArgument, what);
    let paths = [
        Some(&request.rootfs),
        request.work_seed.as_ref(),
        request.kernel.as_ref(),
        request.initrd.as_ref(),
        request.modules.as_ref(),
    ];
    for path in paths.into_iter().flatten() {
        if !path.starts_with('/') {
            return Err(invalid(format!("the path `{path}` is not absolute")));
        }
    }
    if request.kernel.is_some() && request.kernel_ref.is_some() {
        return Err(invalid(
            "an image has one kernel: a file, or one of the catalog".into(),
        ));
    }
    if request.kernel.is_none() && (request.initrd.is_some() || request.modules.is_some()) {
        return Err(invalid(
            "an initramfs and modules belong to a kernel file".into(),
        ));
    }
    match &request.kernel_ref {
        Some(kernel) if state.kernels.get(kernel).is_none() => {
            Err(unknown_kernel(&state.kernels, kernel))
        }
        _ => Ok(()),
    }
}

/// Registers an image, its kernel first.
pub(crate) fn register(
    state: &State,
    request: RegisterImageRequest,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let name = request.name;
    let own = match request.kernel {
        None => None,
        Some(path) => {
            let import = ImportRequest {
                name: None,
                source: Source::File {
                    path: path.into(),
                    modules: request.modules.map(PathBuf::from),
                },
                replace: false,
                initrd: request.initrd.map(PathBuf::from),
                of_image: Some(name.clone()),
            };
            let (say, cancelled) = (|line: &str| progress.line(line), || progress.cancelled());
            let imported = state.kernels.import(&import, &say, &cancelled);
            Some(
                imported
                    .map_err(|error| import_failure(&error))?
                    .record
                    .name,
            )
        }
    };
    let registered = state.images.register(&RegisterRequest {
        name: name.clone(),
        rootfs: request.rootfs.into(),
        work_seed: request.work_seed.map(PathBuf::from),
        kernel: own.or(request.kernel_ref),
        contents: request.packages,
    });
    // A kernel of an image that was not registered, or of its older self.
    discard_kernels_of(state, &name);
    registered.map_err(|error| register_failure(&name, "registered", &error))?;
    discard_old(state, &name);
    Ok(())
}

/// A failed registration or promotion as a failure.
pub(crate) fn register_failure(name: &ImageName, done: &str, error: &RegisterError) -> Failure {
    let code = match error {
        _ if error.is_disk_full() => ErrorCode::DiskFull,
        RegisterError::Unusable { .. } => ErrorCode::InvalidArgument,
        RegisterError::NotFound(_) => ErrorCode::ImageNotFound,
        RegisterError::Busy(_) => ErrorCode::InUse,
        RegisterError::Io(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
            ErrorCode::FileNotFound
        }
        RegisterError::Io(_) => ErrorCode::Internal,
    };
    Failure::because(code, format!("the image `{name}` was not {done}"), error)
}
