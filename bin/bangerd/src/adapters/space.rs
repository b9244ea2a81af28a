//! What of the host the engine looks at again and again: room for disks, and whether a VMM stands still.

use std::path::PathBuf;

use async_trait::async_trait;
use banger_core::{ByteSize, ErrorCode};
use banger_engine::ports::{Failure, Space};

use super::blocking;

/// Room on the file system of the VMs' folders.
#[derive(Debug)]
pub(crate) struct DiskSpace {
    pub(crate) vms: PathBuf,
}

#[async_trait]
impl Space for DiskSpace {
    async fn free(&self) -> Result<ByteSize, Failure> {
        let vms = self.vms.clone();
        blocking(move || {
            let stat = rustix::fs::statvfs(&vms).map_err(|errno| {
                let what = format!("the file system of {} cannot be looked at", vms.display());
                Failure::because(ErrorCode::Internal, what, &std::io::Error::from(errno))
            })?;
            Ok(ByteSize(stat.f_bavail.saturating_mul(stat.f_frsize)))
        })
        .await
    }
}

/// Whether a process was stopped by a signal (`T` in proc_pid_stat(5)). One that cannot be seen was not.
pub(crate) fn is_stopped(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_stopped_in(&stat))
}

/// The name in the second field may hold anything, so the third begins after its last bracket.
fn is_stopped_in(stat: &str) -> bool {
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_pretend_a_state() {
        assert!(is_stopped_in("7 (qemu) T 1 2"));
        assert!(!is_stopped_in("7 (x) T 1) S 1 2"));
        assert!(!is_stopped_in("7 (qemu) S 1 2"));
        assert!(!is_stopped_in(""));
        assert!(!is_stopped(std::process::id()));
    }

    #[tokio::test]
    async fn there_is_room_where_there_is_a_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let here = DiskSpace {
            vms: dir.path().to_owned(),
        };
        assert!(here.free().await.unwrap() > ByteSize(0));
        let nowhere = DiskSpace {
            vms: dir.path().join("absent"),
        };
        assert!(nowhere.free().await.is_err());
    }
}
