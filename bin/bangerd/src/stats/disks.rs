//! A VM's disks on the host: what the guest sees, and what they take.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use banger_api::{DiskFigures, RootFill};
use banger_core::RootStorage;

/// Root and work disk; one that is not made yet is left out.
pub(super) fn read(
    folder: &Path,
    storage: RootStorage,
    fill: Option<RootFill>,
) -> Vec<DiskFigures> {
    let root = folder.join(storage.file_name());
    let root = std::fs::metadata(&root).ok().map(|data| DiskFigures {
        disk: "root".to_owned(),
        virtual_bytes: match storage {
            RootStorage::Qcow2 => qcow2_size(&root),
            // The store has room for every block, so that is the disk's size.
            RootStorage::DmSnapshot => fill.as_ref().and_then(|fill| fill.total_bytes),
            RootStorage::Reflink | RootStorage::Copy => Some(data.len()),
        },
        real_bytes: data.blocks().saturating_mul(512),
        fill,
    });
    let work = std::fs::metadata(folder.join("work.ext4")).ok();
    let work = work.map(|data| DiskFigures {
        disk: "work".to_owned(),
        virtual_bytes: Some(data.len()),
        real_bytes: data.blocks().saturating_mul(512),
        fill: None,
    });
    root.into_iter().chain(work).collect()
}

/// The size in a qcow2 file's header (QEMU's docs/interop/qcow2.txt).
fn qcow2_size(path: &Path) -> Option<u64> {
    let mut header = [0; 32];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    let size = header[24..].try_into().ok()?;
    header
        .starts_with(b"QFI\xfb")
        .then(|| u64::from_be_bytes(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_guests_and_the_hosts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), RootStorage::Qcow2, None), []);
        let mut header = b"QFI\xfb".to_vec();
        header.resize(24, 0);
        header.extend((8_u64 << 30).to_be_bytes());
        std::fs::write(dir.path().join("root.qcow2"), &header).unwrap();
        let work = File::create(dir.path().join("work.ext4")).unwrap();
        work.set_len(1 << 30).unwrap();
        let disks = read(dir.path(), RootStorage::Qcow2, None);
        assert_eq!(disks[0].virtual_bytes, Some(8 << 30));
        assert!(disks[0].real_bytes < 1 << 20);
        assert_eq!(disks[1].virtual_bytes, Some(1 << 30));
        assert_eq!(disks[1].real_bytes, 0, "sparse");
        std::fs::write(dir.path().join("root.qcow2"), "short").unwrap();
        let disks = read(dir.path(), RootStorage::Qcow2, None);
        assert_eq!(disks[0].virtual_bytes, None);
    }
}
