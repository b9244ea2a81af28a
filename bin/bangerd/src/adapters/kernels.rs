//! The kernel store as a port: a kernel that is missing is taken from the catalog; the default one is imported.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use banger_core::{ErrorCode, KernelName, nearest};
use banger_engine::ports::{Failure, Kernels, Progress, ResolvedKernel};
use banger_kernel::{ImportError, ImportRequest, Kernel, KernelStore, Source, ensure_initrd};

use crate::catalogs::Catalogs;

/// The kernels here, and what the initramfs is made with.
#[derive(Debug)]
pub(crate) struct LocalKernels {
    pub(crate) store: KernelStore,
    pub(crate) catalogs: Arc<Catalogs>,
    pub(crate) initrds: PathBuf,
    pub(crate) agent: PathBuf,
    /// One import at a time: the second finds what the first has made.
    pub(crate) importing: Mutex<()>,
}

impl LocalKernels {
    fn find_or_import(
        &self,
        name: Option<&KernelName>,
        progress: &dyn Progress,
    ) -> Result<Kernel, Failure> {
        match name {
            Some(name) => {
                if let Some(kernel) = self.store.get(name) {
                    return Ok(kernel);
                }
                let taken = self.catalogs.find_kernel(name, progress)?;
                taken.ok_or_else(|| unknown_kernel(&self.store, name))
            }
            None => {
                let _one = self
                    .importing
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let broken = |error: std::io::Error| {
                    Failure::because(
                        ErrorCode::Internal,
                        "the kernel store cannot be read",
                        &error,
                    )
                };
                if let Some(kernel) = self.store.default_kernel().map_err(broken)? {
                    return Ok(kernel);
                }
                if let Some(kernel) = self.catalogs.take_default_kernel(progress)? {
                    return Ok(kernel);
                }
                let request = ImportRequest {
                    name: None,
                    source: Source::Package(None),
                    replace: true,
                    initrd: None,
                    of_image: None,
                };
                self.store
                    .import(&request, &|line| progress.line(line), &|| {
                        progress.cancelled()
                    })
                    .map_err(|error| import_failure(&error))
            }
        }
    }
}

/// Nothing of that name, and the name that may have been meant.
pub(crate) fn unknown_kernel(store: &KernelStore, name: &KernelName) -> Failure {
    let failure = Failure::new(
        ErrorCode::KernelNotFound,
        format!("there is no kernel `{name}`"),
    );
    let kernels = store.list().unwrap_or_default();
    match nearest(
        name.as_str(),
        kernels.iter().map(|kernel| kernel.record.name.as_str()),
    ) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint("`banger kernel list` shows all kernels"),
    }
}

/// A failed import as a failure.
pub(crate) fn import_failure(error: &ImportError) -> Failure {
    let code = match error {
        _ if error.is_disk_full() => ErrorCode::DiskFull,
        ImportError::Missing { .. } => ErrorCode::HostNotReady,
        ImportError::NotAKernel { .. } | ImportError::NotAnInitrd { .. } => {
            ErrorCode::InvalidKernel
        }
        ImportError::NameTaken(_) => ErrorCode::NameTaken,
        ImportError::NoName(_) => ErrorCode::InvalidArgument,
        ImportError::Cancelled => ErrorCode::Cancelled,
        ImportError::Io { .. } | ImportError::Command { .. } => ErrorCode::InvalidKernel,
    };
    let failure = Failure::because(code, "the kernel could not be imported", error);
    match code {
        ErrorCode::HostNotReady => failure.hint("scripts/setup installs what the host needs"),
        _ => failure,
    }
}

#[async_trait]
impl Kernels for LocalKernels {
    async fn ensure(
        &self,
        name: Option<&KernelName>,
        progress: &dyn Progress,
    ) -> Result<ResolvedKernel, Failure> {
        tokio::task::block_in_place(|| {
            let kernel = self.find_or_import(name, progress)?;
            let initrd = ensure_initrd(&self.initrds, &kernel, &self.agent).map_err(|error| {
                Failure::because(
                    ErrorCode::Internal,
                    "there is no initramfs to boot with",
                    &error,
                )
                .hint("the guest agent belongs to banger: build or install it again (`make build`)")
            })?;
            Ok(ResolvedKernel {
                vmlinux: kernel.vmlinux(),
                modules: kernel.modules(),
                name: kernel.record.name,
                release: kernel.record.release,
                initrd,
            })
        })
    }
}
