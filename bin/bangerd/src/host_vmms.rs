//! What this host offers to VMs, asked when it is needed: Firecracker may come and go.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use banger_image::shares_blocks;
use banger_root_proto::{HelperInfo, SnapshotSupport};
use banger_vmm::AccelProbe;
use banger_vmm::firecracker::{FirecrackerVersion, probe_firecracker};
use rustix::fs::StatVfsMountFlags;

use crate::vmm_choice::HostVmms;

/// What tells a file from another one in its place: device, inode, time of its last change.
type FileStamp = (u64, u64, i64, i64);

/// What was found when the daemon started, and which Firecracker was asked for its version.
#[derive(Debug)]
pub(crate) struct HostProbe {
    kvm: AccelProbe,
    reflinks: bool,
    /// The file system of the VMs is mounted without devices.
    no_devices: bool,
    versions: Mutex<HashMap<(PathBuf, FileStamp), Result<FirecrackerVersion, String>>>,
}

impl HostProbe {
    /// `folder` is where the VMs' are.
    pub(crate) fn new(kvm: AccelProbe, folder: &Path) -> Self {
        let mount = rustix::fs::statvfs(folder).map(|mount| mount.f_flag);
        Self {
            kvm,
            reflinks: shares_blocks(folder),
            no_devices: mount.is_ok_and(|flags| flags.contains(StatVfsMountFlags::NODEV)),
            versions: Mutex::default(),
        }
    }

    /// What can be used, with what the helper says of itself. Blocks when Firecracker is a new one.
    pub(crate) fn offers(&self, helper: Option<&HelperInfo>) -> HostVmms {
        let away = || "the helper does not answer".to_owned();
        let kvm = match self.kvm.works {
            true => Ok(self.kvm.reason.clone()),
            false => Err(self.kvm.reason.clone()),
        };
        let firecracker = match helper {
            None => Err(away()),
            Some(info) => match &info.firecracker {
                Some(path) => self.version(Path::new(path)),
                None => Err("none was found when the helper was started".to_owned()),
            },
        };
        let snapshots = match helper.map(|info| &info.snapshots) {
            None => Err(away()),
            Some(SnapshotSupport::Works {}) if self.no_devices => {
                Err("the file system of the VMs is mounted `nodev`".to_owned())
            }
            Some(SnapshotSupport::Works {}) => Ok(()),
            Some(SnapshotSupport::Missing { why }) => Err(why.clone()),
        };
        HostVmms {
            kvm,
            firecracker,
            snapshots,
            reflinks: self.reflinks,
        }
    }

    fn version(&self, path: &Path) -> Result<String, String> {
        let metadata = std::fs::metadata(path);
        let metadata = metadata.map_err(|error| format!("{}: {error}", path.display()))?;
        let stamp = (
            metadata.dev(),
            metadata.ino(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        );
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = versions
            .entry((path.to_owned(), stamp))
            .or_insert_with(|| probe_firecracker(path).map_err(|error| chain(&error)));
        asked
            .clone()
            .map(|version| format!("Firecracker {version} at {}", path.display()))
    }
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
