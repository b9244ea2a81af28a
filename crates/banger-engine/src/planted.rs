//! A work disk that is made before its VM is stored, and goes away again when that does not come to be.

use std::path::Path;
use std::sync::Arc;

use banger_core::VmId;
use banger_store::VmRow;

use crate::inner::Inner;
use crate::ports::{Drives, Failure};

/// Such a disk, or none. Dropped, it is removed in the background: whoever asked may have stopped listening.
pub(crate) struct Planted(Option<(Arc<dyn Drives>, VmId)>);

impl Planted {
    /// Makes it, where there is something to make it of.
    pub(crate) async fn plant(
        inner: &Inner,
        row: &VmRow,
        seed: Option<&Path>,
    ) -> Result<Self, Failure> {
        let Some(seed) = seed else {
            return Ok(Self(None));
        };
        let drives = Arc::clone(&inner.ports.drives);
        // From here on: a request that is dropped in the middle leaves what it began.
        let planted = Self(Some((Arc::clone(&drives), row.id.clone())));
        drives
            .plant_work_disk(&row.id, seed, row.spec.disk_size)
            .await?;
        Ok(planted)
    }

    /// The VM is stored: it is its disk now.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

/// Removes the disks whose create a dead daemon did not bring as far as a VM.
///
/// # Errors
/// They cannot be listed or removed.
pub(crate) async fn uproot_unknown(inner: &Inner) -> Result<(), Failure> {
    if !inner.unreadable.is_empty() {
        // They may be of one of those.
        return Ok(());
    }
    for vm in inner.ports.drives.planted_work_disks().await? {
        if inner.handle(&vm).is_none() {
            inner.ports.drives.uproot_work_disk(&vm).await?;
        }
    }
    Ok(())
}

impl Drop for Planted {
    fn drop(&mut self) {
        let Some((drives, vm)) = self.0.take() else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            if let Err(failure) = drives.uproot_work_disk(&vm).await {
                tracing::warn!(%vm, %failure, "a work disk that no VM needs could not be removed");
            }
        });
    }
}
