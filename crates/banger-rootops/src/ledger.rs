//! What the helper made, in root's own file, so that a restarted helper knows it. It is valid for
//! one boot of the host: after another boot nothing of it exists.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use banger_core::VmId;
use banger_root_proto::{ProcessIdentity, RefusalCode};
use serde::{Deserialize, Serialize};

use crate::config::HelperConfig;
use crate::error::{Context, OpError};
use crate::process;

/// One VM's entry.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The uid of its VMM: `VMM_UID_BASE` and this.
    pub(crate) slot: u32,
    pub(crate) tap: Option<Tap>,
    /// Whether its folder for running was made.
    pub(crate) run_dir: bool,
    pub(crate) vmm: Option<ProcessIdentity>,
    pub(crate) backend: Option<ProcessIdentity>,
}

/// A tap and what it is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tap {
    pub(crate) address: Ipv4Addr,
    pub(crate) nat: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    boot_id: String,
    vms: BTreeMap<VmId, Entry>,
}

/// The ledger; every change is on disk before the change is made.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    contents: Contents,
}

impl Ledger {
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let boot_id = process::boot_id()?;
        let contents = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::default(),
            Err(error) => return Err(error),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let message = format!("the ledger {} is damaged: {error}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?,
        };
        let same_boot = contents.boot_id == boot_id;
        let vms = if same_boot {
            contents.vms
        } else {
            BTreeMap::new()
        };
        Ok(Self {
            path: path.to_owned(),
            contents: Contents { boot_id, vms },
        })
    }

    pub(crate) fn vms(&self) -> &BTreeMap<VmId, Entry> {
        &self.contents.vms
    }

    pub(crate) fn get(&self, vm: &VmId) -> Option<&Entry> {
        self.contents.vms.get(vm)
    }

    /// Changes a VM's entry, which is made when there is none, and writes the ledger.
    pub(crate) fn update(
        &mut self,
        vm: &VmId,
        edit: impl FnOnce(&mut Entry),
    ) -> Result<u32, OpError> {
        if !self.contents.vms.contains_key(vm) {
            let slot = self.free_slot()?;
            self.contents.vms.insert(
                vm.clone(),
                Entry {
                    slot,
                    ..Entry::default()
                },
            );
        }
        let entry = self.contents.vms.entry(vm.clone()).or_default();
        edit(entry);
        let slot = entry.slot;
        if entry.tap.is_none() && !entry.run_dir && entry.vmm.is_none() && entry.backend.is_none() {
            self.contents.vms.remove(vm);
        }
        self.save()?;
        Ok(HelperConfig::VMM_UID_BASE + slot)
    }

    fn free_slot(&self) -> Result<u32, OpError> {
        let taken = |slot: &u32| self.contents.vms.values().any(|entry| entry.slot == *slot);
        (0..HelperConfig::MAX_VMS)
            .find(|slot| !taken(slot))
            .ok_or_else(|| {
                let message = format!(
                    "the helper's quota of {} VMs is reached",
                    HelperConfig::MAX_VMS
                );
                OpError::refused(RefusalCode::Quota, message)
            })
    }

    fn save(&self) -> Result<(), OpError> {
        let what = || format!("failed to write {}", self.path.display());
        let json = serde_json::to_vec(&self.contents)
            .map_err(io::Error::from)
            .context(what)?;
        let next = self.path.with_extension("next");
        fs::write(&next, json).context(what)?;
        fs::rename(&next, &self.path).context(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_a_restart_and_vanish_when_nothing_is_left_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        let vm: VmId = "00000000000a".parse().unwrap();
        let mut ledger = Ledger::load(&path).unwrap();
        ledger.update(&vm, |entry| entry.run_dir = true).unwrap();
        let mut again = Ledger::load(&path).unwrap();
        assert!(again.get(&vm).unwrap().run_dir);
        again.update(&vm, |entry| entry.run_dir = false).unwrap();
        assert!(Ledger::load(&path).unwrap().vms().is_empty());
    }

    #[test]
    fn a_damaged_ledger_is_an_error_and_one_of_another_boot_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        fs::write(&path, "{").unwrap();
        assert!(Ledger::load(&path).is_err());
        let entry = r#"{"boot_id":"another","vms":{"00000000000a":{"slot":0,"tap":null,"run_dir":true,"vmm":null,"backend":null}}}"#;
        fs::write(&path, entry).unwrap();
        assert!(Ledger::load(&path).unwrap().vms().is_empty());
    }
}
