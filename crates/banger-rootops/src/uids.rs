//! Users for VMMs. Each VM's processes run as a user of their own, from a range that no login has.
//! The helpers of all owners on a machine share the range: a claim is a file named after the uid
//! in one root-owned directory, and holds the path of the claimant's runtime directory.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, open, openat, unlinkat};
use rustix::io::Errno;

/// The first user id of the range.
pub const UID_BASE: u32 = 880_000;
/// Where the claims of all helpers on this machine are. Root-owned, 0700.
pub const CLAIMS_DIR: &str = "/run/banger-root/uids";
/// How many user ids the range has.
pub(crate) const UID_COUNT: u32 = 10_000;

/// Whether a user id is one that helpers give to VMMs.
pub(crate) fn is_vmm_uid(uid: u32) -> bool {
    (UID_BASE..UID_BASE + UID_COUNT).contains(&uid)
}

/// The claims of all helpers on this machine.
#[derive(Debug)]
pub(crate) struct Claims {
    dir: OwnedFd,
    tag: String,
}

/// Why no user could be claimed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// All taken.
    #[error("every user id from {UID_BASE} on is in use")]
    Exhausted,
    /// The lock failed.
    #[error("failed to lock the claims of user ids")]
    Lock(#[source] Errno),
    /// The directory failed.
    #[error("failed to write the claim of user id {uid}")]
    Write {
        uid: u32,
        #[source]
        source: std::io::Error,
    },
}

impl Claims {
    /// Opens the directory of claims; `tag` tells this helper's from others'.
    pub(crate) fn open(dir: &Path, tag: &str) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self {
            dir: open(dir, flags, Mode::empty())?,
            tag: tag.to_owned(),
        })
    }

    /// Claims the lowest user id that is neither claimed nor in `busy`.
    pub(crate) fn claim(&self, busy: &BTreeSet<u32>) -> Result<u32, ClaimError> {
        // One helper at a time; the lock ends with the descriptor.
        let lock = openat(
            &self.dir,
            ".",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let lock = lock.and_then(|lock| {
            flock(&lock, FlockOperation::LockExclusive)?;
            Ok(lock)
        });
        let _lock = lock.map_err(ClaimError::Lock)?;
        for uid in (UID_BASE..UID_BASE + UID_COUNT).filter(|uid| !busy.contains(uid)) {
            if self.read(uid).is_some_and(|tag| !Path::new(&tag).exists()) {
                // Its claimant's directory is gone, and `busy` has what still runs.
                let _ = unlinkat(&self.dir, uid.to_string(), AtFlags::empty());
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let failed = |source| ClaimError::Write { uid, source };
            match openat(&self.dir, uid.to_string(), flags, Mode::RUSR) {
                Ok(file) => {
                    let mut file = std::fs::File::from(file);
                    file.write_all(self.tag.as_bytes()).map_err(failed)?;
                    return Ok(uid);
                }
                // Ours, and not in the ledger (`busy` has those): left by a crash.
                Err(Errno::EXIST) if self.is_ours(uid) => return Ok(uid),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        Err(ClaimError::Exhausted)
    }

    /// Gives a user id back. One that is not claimed is fine.
    pub(crate) fn release(&self, uid: u32) {
        if self.is_ours(uid) {
            // What remains is found again by `claim`.
            let _ = unlinkat(&self.dir, uid.to_string(), AtFlags::empty());
        }
    }

    /// Whether another helper has claimed this user id.
    pub(crate) fn is_foreign(&self, uid: u32) -> bool {
        self.read(uid)
            .is_some_and(|tag| tag != self.tag && Path::new(&tag).exists())
    }

    /// The users that this helper has claimed.
    pub(crate) fn ours(&self) -> impl Iterator<Item = u32> {
        // Another position than that of the descriptor that is kept.
        let names = rustix::fs::Dir::read_from(&self.dir);
        let uids = names.into_iter().flatten().flatten().filter_map(|entry| {
            let uid = entry.file_name().to_str().ok()?.parse().ok()?;
            is_vmm_uid(uid).then_some(uid)
        });
        uids.filter(|uid| self.is_ours(*uid))
    }

    fn is_ours(&self, uid: u32) -> bool {
        self.read(uid).is_some_and(|tag| tag == self.tag)
    }

    fn read(&self, uid: u32) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir, uid.to_string(), flags, Mode::empty()).ok()?;
        std::io::read_to_string(std::fs::File::from(file)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_helpers_never_claim_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["/proc/self", "/proc"].map(|tag| Claims::open(dir.path(), tag).unwrap());
        let none = BTreeSet::new();
        assert_eq!(one.claim(&none).unwrap(), UID_BASE);
        assert_eq!(two.claim(&none).unwrap(), UID_BASE + 1);
        assert!(two.is_foreign(UID_BASE) && !two.is_foreign(UID_BASE + 1));
        two.release(UID_BASE);
        assert_eq!(
            two.claim(&BTreeSet::from([UID_BASE + 1])).unwrap(),
            UID_BASE + 2
        );
        assert_eq!(one.ours().collect::<Vec<_>>(), [UID_BASE]);
        std::fs::write(dir.path().join("0"), "/proc/self").unwrap();
        std::fs::write(dir.path().join("x"), "/proc/self").unwrap();
        assert_eq!(one.ours().collect::<Vec<_>>(), [UID_BASE]);
        one.release(UID_BASE);
        assert_eq!(
            two.claim(&BTreeSet::from([UID_BASE + 1, UID_BASE + 2]))
                .unwrap(),
            UID_BASE
        );
        let gone = Claims::open(dir.path(), "/nowhere").unwrap();
        let taken = BTreeSet::from([UID_BASE, UID_BASE + 1, UID_BASE + 2]);
        assert_eq!(gone.claim(&taken).unwrap(), UID_BASE + 3);
        assert_eq!(
            one.claim(&taken).unwrap(),
            UID_BASE + 3,
            "its claimant is gone"
        );
    }
}
