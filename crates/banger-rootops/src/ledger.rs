//! What the helper made, so that it touches nothing else. Written before the thing is made, in one
//! piece (temporary file and rename), in the runtime directory: it lives as long as this boot.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use banger_core::{VmId, VmmKind};
use banger_root_proto::ProcessIdentity;
use serde::{Deserialize, Serialize};

use crate::beside::Hooks;
use crate::loop_device::FileId;
use crate::uids::is_vmm_uid;

/// Raise it with every change of the types below, and give what is new a default: an upgrade in place reads
/// the ledger of the version before, and its VMs go on.
const VERSION: u32 = 4;

/// Everything the helper made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ledger {
    version: u32,
    boot_id: String,
    /// Whether the bridge was asked for.
    pub(crate) network: bool,
    /// The firewall as it was last written.
    pub(crate) firewall: Option<AppliedFirewall>,
    /// The hooks of other firewalls that hold something of ours, or were about to.
    #[serde(default)]
    pub(crate) hooks: Hooks,
    /// Whether this machine forwards packets because of us.
    #[serde(default)]
    pub(crate) forwarding: bool,
    /// Taps that exist, or were about to.
    pub(crate) taps: BTreeMap<VmId, TapEntry>,
    /// VMMs that run, or were about to.
    pub(crate) vmms: BTreeMap<VmId, VmmEntry>,
}

/// Tells whether the firewall still is what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppliedFirewall {
    /// A hash of the batch.
    pub(crate) batch: u64,
    /// The kernel's generation when it was last known to stand; none when somebody else was at
    /// the firewall at the same time.
    pub(crate) generation: Option<u32>,
    /// What it looks like in the kernel, once that was looked at.
    pub(crate) fingerprint: Option<u64>,
}

/// A tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TapEntry {
    /// The only address behind it.
    pub(crate) address: std::net::Ipv4Addr,
    /// Whether NAT is on.
    pub(crate) nat: bool,
}

/// A VMM, and the vsock backend of one that needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VmmEntry {
    /// The user of both.
    pub(crate) uid: u32,
    /// Which program the VMM is.
    #[serde(default = "the_first_kind")]
    pub(crate) kind: VmmKind,
    /// None until it was started.
    pub(crate) vmm: Option<ProcessIdentity>,
    /// None until it was started, or when none is needed.
    pub(crate) backend: Option<ProcessIdentity>,
    /// The base below its root disk, when that is a snapshot.
    pub(crate) snapshot_of: Option<FileId>,
}

/// Of entries that do not say.
const fn the_first_kind() -> VmmKind {
    VmmKind::Qemu
}

impl VmmEntry {
    /// Whether this VMM has a vsock backend beside it.
    pub(crate) const fn has_backend(&self) -> bool {
        match self.kind {
            VmmKind::Qemu => true,
            VmmKind::Firecracker => false,
        }
    }
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Reading failed.
    #[error("failed to read the ledger {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Writing failed.
    #[error("failed to write the ledger {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a ledger.
    #[error("the ledger {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Of another version of banger.
    #[error(
        "the ledger {} was written by another banger (version {found}, this one knows {VERSION}); \
         use that one to stop its VMs",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
}

impl Ledger {
    /// Reads the ledger; of an earlier boot, or none, an empty one.
    pub(crate) fn load(path: &Path, boot_id: &str) -> Result<Self, LedgerError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
            boot_id: String,
        }
        let empty = Self {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            ..Self::default()
        };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(empty),
            Err(source) => {
                return Err(LedgerError::Read {
                    path: path.into(),
                    source,
                });
            }
        };
        let damaged = |source| LedgerError::Damaged {
            path: path.into(),
            source,
        };
        let head: Head = serde_json::from_slice(&text).map_err(damaged)?;
        if head.boot_id != boot_id {
            return Ok(empty);
        }
        if head.version > VERSION {
            return Err(LedgerError::Version {
                path: path.into(),
                found: head.version,
            });
        }
        let ledger: Self = serde_json::from_slice(&text).map_err(damaged)?;
        ledger.check_users().map_err(damaged)?;
        Ok(Self {
            version: VERSION,
            ..ledger
        })
    }

    /// Everything that runs as a VM's user is ended with the VM: no entry has a user that is somebody else's.
    fn check_users(&self) -> Result<(), serde_json::Error> {
        let mut seen = BTreeSet::new();
        for (vm, entry) in &self.vmms {
            if !is_vmm_uid(entry.uid) || !seen.insert(entry.uid) {
                let what = format!("{vm} has the user {}", entry.uid);
                return Err(serde::de::Error::custom(what));
            }
        }
        Ok(())
    }

    /// The ledger; one that is damaged is set aside as `ledger.damaged`, to be looked at, and an empty one takes
    /// its place: what there is in truth is found by [`crate::rebuild`].
    pub(crate) fn load_or_set_aside(path: &Path, boot_id: &str) -> Result<Self, LedgerError> {
        match Self::load(path, boot_id) {
            Err(LedgerError::Damaged { .. }) => {
                let aside = path.with_extension("damaged");
                std::fs::rename(path, aside).map_err(|source| LedgerError::Write {
                    path: path.into(),
                    source,
                })?;
                Self::load(path, boot_id)
            }
            loaded => loaded,
        }
    }

    /// Writes the ledger in one piece. Not synced: it does not outlive the boot.
    pub(crate) fn save(&self, path: &Path) -> Result<(), LedgerError> {
        let failed = |source| LedgerError::Write {
            path: path.into(),
            source,
        };
        let json = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, json).map_err(failed)?;
        std::fs::rename(&temporary, path).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_reads_what_the_first_version_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        let first = r#"{"version":1,"boot_id":"one","network":true,"firewall":{"batch":7,"generation":12},
            "taps":{},"vmms":{"0123456789ab":{"uid":880000,"vmm":null,"backend":null}}}"#;
        std::fs::write(&path, first).unwrap();
        let ledger = Ledger::load(&path, "one").unwrap();
        let entry = ledger.vmms.values().next().unwrap();
        assert_eq!((entry.uid, entry.kind), (880_000, VmmKind::Qemu));
        ledger.save(&path).unwrap();
        assert_eq!(Ledger::load(&path, "one").unwrap(), ledger);
    }

    #[test]
    fn it_round_trips_and_ends_with_the_boot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        let mut ledger = Ledger::load(&path, "one").unwrap();
        let vmm = VmmEntry {
            uid: 880_000,
            kind: VmmKind::Firecracker,
            vmm: None,
            backend: None,
            snapshot_of: Some(FileId { dev: 1, ino: 2 }),
        };
        ledger.vmms.insert("0123456789ab".parse().unwrap(), vmm);
        ledger.network = true;
        ledger.save(&path).unwrap();
        assert_eq!(Ledger::load(&path, "one").unwrap(), ledger);
        assert!(Ledger::load(&path, "two").unwrap().vmms.is_empty());
    }

    #[test]
    fn a_damaged_one_is_set_aside_and_one_that_would_end_other_users_programs_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        let vmm = |vm: &str, uid: u32| {
            format!(r#""{vm}":{{"uid":{uid},"vmm":null,"backend":null,"snapshot_of":null}}"#)
        };
        let ledger = |vmms: &[String]| {
            let vmms = vmms.join(",");
            format!(
                r#"{{"version":4,"boot_id":"one","network":true,"firewall":null,"taps":{{}},"vmms":{{{vmms}}}}}"#
            )
        };
        std::fs::write(&path, ledger(&[vmm("0123456789ab", 880_000)])).unwrap();
        assert_eq!(
            Ledger::load_or_set_aside(&path, "one").unwrap().vmms.len(),
            1
        );
        for bad in [
            String::new(),
            "null".to_owned(),
            "{\"version\":4,".to_owned(),
            ledger(&[vmm("0123456789ab", 0)]),
            ledger(&[vmm("0123456789ab", 1000)]),
            ledger(&[vmm("0123456789ab", 880_000), vmm("0123456789ac", 880_000)]),
        ] {
            std::fs::write(&path, &bad).unwrap();
            let loaded = Ledger::load_or_set_aside(&path, "one").unwrap();
            assert_eq!(loaded.vmms.len(), 0, "{bad}");
            let aside = std::fs::read_to_string(dir.path().join("ledger.damaged"));
            assert_eq!(aside.unwrap(), bad);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_damaged_or_newer_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        std::fs::write(&path, b"{\"version\":4,").unwrap();
        assert!(matches!(
            Ledger::load(&path, "one"),
            Err(LedgerError::Damaged { .. })
        ));
        std::fs::write(&path, b"{\"version\":4,\"boot_id\":\"one\",\"extra\":0}").unwrap();
        assert!(matches!(
            Ledger::load(&path, "one"),
            Err(LedgerError::Damaged { .. })
        ));
        std::fs::write(&path, b"{\"version\":9,\"boot_id\":\"one\"}").unwrap();
        assert!(matches!(
            Ledger::load(&path, "one"),
            Err(LedgerError::Version { found: 9, .. })
        ));
        std::fs::write(&path, b"{\"version\":9,\"boot_id\":\"other\"}").unwrap();
        assert!(Ledger::load(&path, "one").is_ok());
    }
}
