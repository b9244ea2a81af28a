//! Root disks that are snapshots: a read-only loop device over the base image, which all VMs on it
//! share, a loop device over the VM's own store of changes, and device-mapper's `snapshot` over both.
//!
//! The VM's entry in the ledger says that there is one, and over which base, before any of it is
//! made. Which loop devices are in use is not noted but asked of the kernel: each is bound with
//! `autoclear` and lives as long as the device above it, so a crash leaves none, and removing the
//! device removes them. A device that no entry knows was made by a helper that lost its ledger; it is
//! removed when the next one starts.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use banger_core::{ByteSize, SECTOR, VmId, cow_store_size};
use banger_root_proto::{Refusal, RefusalCode, SnapshotSupport, StoreFill};
use rustix::fs::{Dev, FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::Errno;

use crate::config::Config;
use crate::device_mapper::{
    DeviceMapper, DmError, DmName, Fill, PATIENCE, Removed, Table, Unsupported, pause,
};
use crate::drives::Facts;
use crate::helper::Helper;
use crate::loop_device::{FileId, LoopDevice, Purpose};
use crate::refuse::{OrRefuse as _, because, refuse};

/// The two files of a snapshot, as they came with the launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotFiles<'a> {
    /// What the VM writes.
    pub(crate) store: BorrowedFd<'a>,
    /// What all VMs on it read.
    pub(crate) base: BorrowedFd<'a>,
}

impl SnapshotFiles<'_> {
    /// Which file the base is, for the ledger.
    pub(crate) fn base_id(&self) -> Result<FileId, Refusal> {
        FileId::of(self.base).or_refuse(|| "failed to look at the base image".into())
    }
}

/// What files for a snapshot must be, besides what is asked of every file of a launch.
pub(crate) fn check_files(store: &Facts, base: &Facts) -> Result<(), Refusal> {
    let no = |why: String| Err(refuse(RefusalCode::Descriptor, why));
    for (what, facts) in [("the store of changes", store), ("the base image", base)] {
        if facts.mode & 0o002 != 0 {
            let mode = facts.mode;
            return no(format!(
                "{what} can be written by everybody (mode {mode:04o})"
            ));
        }
        if facts.in_user_space {
            return no(format!(
                "{what} is on a file system that a program provides (FUSE)"
            ));
        }
    }
    if !store.writable {
        return no("the store of changes was not opened for reading and writing".into());
    }
    if base.writable {
        return no("the base image was opened for writing".into());
    }
    if base.length == 0 || !base.length.is_multiple_of(SECTOR) {
        let length = base.length;
        return no(format!(
            "the base image has {length} bytes, not a number of sectors"
        ));
    }
    let least = cow_store_size(ByteSize(base.length));
    if store.length < least.0 {
        let length = store.length;
        return no(format!(
            "the store of changes has {length} bytes and could overflow; it needs {}",
            least.0
        ));
    }
    Ok(())
}

impl Config {
    /// What tells this helper's devices from another's: the owner, and a hash of where it keeps its
    /// ledger (FNV-1a).
    pub(crate) fn device_tag(&self) -> String {
        let path = self.runtime_dir.to_string_lossy();
        let hash = path.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        format!("{}-{hash:08x}", self.owner)
    }
}

impl Helper {
    fn device_name(&self, vm: &VmId) -> DmName {
        DmName::new(&self.config.device_tag(), vm)
    }

    /// Makes the device of a VM whose entry in the ledger says so, and gives its number.
    pub(crate) fn make_snapshot(
        &self,
        vm: &VmId,
        files: SnapshotFiles<'_>,
    ) -> Result<Dev, Refusal> {
        let mapper = open_mapper()?;
        let base = self.base_loop(&mapper, vm, files)?;
        let store = own_handle(files.store, OFlags::RDWR)?;
        hold(&store)?;
        let store = LoopDevice::attach(store.as_fd(), Purpose::Store);
        let store = store.or_refuse(|| "failed to attach the store of changes".into())?;
        let failed = || format!("failed to make the root disk of {vm}");
        let sectors = fstat(files.base).or_refuse(failed)?.st_size.unsigned_abs() / SECTOR;
        let table = Table {
            sectors,
            base: base.device().or_refuse(failed)?,
            store: store.device().or_refuse(failed)?,
        };
        let name = self.device_name(vm);
        let device = mapper.create(&name).map_err(|error| {
            let code = match error {
                DmError::Foreign(_) => RefusalCode::Conflict,
                DmError::Lingers(_) => RefusalCode::Busy,
                DmError::Refused { .. } | DmError::Random(_) => RefusalCode::System,
            };
            because(code, failed(), &error)
        })?;
        mapper.load(&name, &table).or_refuse(failed)?;
        mapper.resume(&name).or_refuse(failed)?;
        Ok(device)
    }

    /// The base's loop device: the one that another VM uses already, or a new one.
    fn base_loop(
        &self,
        mapper: &DeviceMapper,
        vm: &VmId,
        files: SnapshotFiles<'_>,
    ) -> Result<LoopDevice, Refusal> {
        let id = files.base_id()?;
        let on_it = |(other, entry): &(&VmId, &crate::ledger::VmmEntry)| {
            *other != vm && entry.snapshot_of == Some(id)
        };
        for (other, _) in self.ledger.vmms.iter().filter(on_it) {
            // A neighbour that cannot be asked is no reason against a device of one's own.
            let device = mapper.base(&self.device_name(other)).ok().flatten();
            if let Some(shared) = device.and_then(|device| LoopDevice::shared(device, id)) {
                return Ok(shared);
            }
        }
        let base = own_handle(files.base, OFlags::RDONLY)?;
        LoopDevice::attach(base.as_fd(), Purpose::Base)
            .or_refuse(|| "failed to attach the base image".into())
    }

    /// Removes the VM's device, and with it its loop devices. Absent is fine. What somebody has open
    /// goes when they close it.
    pub(crate) fn remove_snapshot(&self, vm: &VmId) -> Result<Removed, Refusal> {
        open_mapper()?
            .remove(&self.device_name(vm))
            .or_refuse(|| format!("failed to remove the root disk of {vm}"))
    }

    /// Removes devices of ours that no entry knows.
    pub(crate) fn sweep_snapshots(&self) {
        // Without device-mapper there are none; what fails now is tried by the next helper.
        let Ok(mapper) = DeviceMapper::open() else {
            return;
        };
        let tag = self.config.device_tag();
        for vm in mapper.list(&tag).unwrap_or_default() {
            let known = self.ledger.vmms.get(&vm);
            if known.is_none_or(|entry| entry.snapshot_of.is_none()) {
                let _ = mapper.remove(&DmName::new(&tag, &vm));
            }
        }
    }

    /// How full the VM's store is, when its device stands.
    pub(crate) fn store_fill(&self, mapper: Option<&DeviceMapper>, vm: &VmId) -> Option<StoreFill> {
        let fill = mapper?.fill(&self.device_name(vm)).ok()??;
        Some(match fill {
            Fill::Used { used, total } => StoreFill::Used {
                used_bytes: used * SECTOR,
                total_bytes: total * SECTOR,
            },
            Fill::Invalid => StoreFill::Invalid {},
        })
    }
}

/// Whether root disks can be snapshots here.
pub(crate) fn support() -> SnapshotSupport {
    match DeviceMapper::open() {
        Ok(_) => SnapshotSupport::Works {},
        Err(error) => SnapshotSupport::Missing { why: chain(&error) },
    }
}

/// Refuses when they cannot.
pub(crate) fn check_host() -> Result<(), Refusal> {
    open_mapper().map(drop)
}

fn chain(error: &Unsupported) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

fn open_mapper() -> Result<DeviceMapper, Refusal> {
    let hint = "root disks cannot be snapshots on this host; `storage` says how else";
    DeviceMapper::open().or_refuse_as(RefusalCode::HostNotReady, || hint.into())
}

/// The same file, but with flags, position and locks that the owner does not share.
fn own_handle(file: BorrowedFd<'_>, access: OFlags) -> Result<OwnedFd, Refusal> {
    let failed = || "failed to open a file of the root disk anew".to_owned();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let own = open(path, access | OFlags::CLOEXEC, Mode::empty()).or_refuse(failed)?;
    let ids = [file, own.as_fd()].map(FileId::of);
    match ids {
        [Ok(given), Ok(opened)] if given == opened => Ok(own),
        _ => Err(refuse(RefusalCode::Descriptor, failed())),
    }
}

/// Locks a store. The loop device keeps the file open, and so the lock: two devices over one store
/// would destroy it. The last one's may be on its way out.
fn hold(store: &OwnedFd) -> Result<(), Refusal> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(store, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => pause(),
            Err(Errno::WOULDBLOCK) => {
                let message = "the store of changes is in use";
                return Err(refuse(RefusalCode::Busy, message));
            }
            Err(Errno::INTR) => {}
            other => return other.or_refuse(|| "failed to lock the store of changes".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    const BASE: u64 = 1 << 20;

    fn facts(path: &Path, write: bool) -> Facts {
        let file = File::options().read(true).write(write).open(path).unwrap();
        Facts::of(file.as_fd(), 0).unwrap()
    }

    fn file(dir: &Path, name: &str, length: u64, mode: u32) -> std::path::PathBuf {
        let path = dir.join(name);
        let file = File::create(&path).unwrap();
        file.set_len(length).unwrap();
        let permissions = std::fs::Permissions::from_mode(mode);
        file.set_permissions(permissions).unwrap();
        path
    }

    #[test]
    fn files_of_a_snapshot_are_taken_only_as_they_must_be() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, size) = (dir.path(), cow_store_size(ByteSize(BASE)).0);
        let store = file(dir, "store", size, 0o600);
        let base = file(dir, "base", BASE, 0o644);
        let good = [facts(&store, true), facts(&base, false)];
        assert_eq!(check_files(&good[0], &good[1]), Ok(()));
        let small = file(dir, "small", size - 1, 0o600);
        let open_store = file(dir, "open-store", size, 0o602);
        let open_base = file(dir, "open-base", BASE, 0o646);
        let odd = file(dir, "odd", BASE + 1, 0o644);
        let empty = file(dir, "empty", 0, 0o644);
        let mut fuse = good[1];
        fuse.in_user_space = true;
        for (store, base, why) in [
            (facts(&store, false), good[1], "reading and writing"),
            (good[0], facts(&base, true), "opened for writing"),
            (facts(&small, true), good[1], "overflow"),
            (facts(&open_store, true), good[1], "by everybody"),
            (good[0], facts(&open_base, false), "by everybody"),
            (good[0], facts(&odd, false), "sectors"),
            (good[0], facts(&empty, false), "sectors"),
            (good[0], fuse, "FUSE"),
        ] {
            let refusal = check_files(&store, &base).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::Descriptor);
            assert!(refusal.message.contains(why), "{refusal}");
        }
    }

    #[test]
    fn the_owner_shares_neither_position_nor_flags_with_what_is_attached() {
        let mut given = tempfile::tempfile().unwrap();
        let own = own_handle(given.as_fd(), OFlags::RDWR).unwrap();
        given.write_all(b"moves the position").unwrap();
        let position = rustix::fs::seek(&own, rustix::fs::SeekFrom::Current(0));
        assert_eq!(position, Ok(0));
        hold(&own).unwrap();
        let lock = flock(&given, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(lock, Err(Errno::WOULDBLOCK), "the lock is the helper's");
    }

    #[test]
    fn each_helper_has_a_tag_of_its_own() {
        let mut config = crate::config::example();
        let one = config.device_tag();
        assert!(one.starts_with("1000-") && one.len() == 13, "{one}");
        config.runtime_dir = "/run/banger-root/other".into();
        let two = config.device_tag();
        config.owner = 1001;
        assert!(one != two && two != config.device_tag());
    }
}
