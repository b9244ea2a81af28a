//! How full the stores of root disks are: shown with the VM, and told in the log when it matters.

use std::collections::BTreeMap;

use banger_api::RootFill;
use banger_core::{RootStorage, VmId};
use banger_engine::VmView;
use banger_root_proto::StoreFill;

/// From so many percent on it is worth a word.
const NEARLY_FULL: u64 = 90;

/// Whether the VM has a store now.
pub(crate) fn has_store(vm: &VmView) -> bool {
    vm.spec.storage == RootStorage::DmSnapshot && vm.vmm_pid.is_some()
}

/// A store's fill for the API.
pub(crate) fn root_fill(fill: StoreFill) -> RootFill {
    let (used_bytes, total_bytes) = match fill {
        StoreFill::Used {
            used_bytes,
            total_bytes,
        } => (Some(used_bytes), Some(total_bytes)),
        StoreFill::Invalid {} => (None, None),
    };
    RootFill {
        used_bytes,
        total_bytes,
        warning: warning(fill),
    }
}

fn warning(fill: StoreFill) -> Option<String> {
    match fill {
        StoreFill::Invalid {} => Some(
            "a write to the root disk has failed (is the host's disk full?) and it gives errors from \
             now on; make room and restart the VM: what the guest had flushed is there"
                .to_owned(),
        ),
        StoreFill::Used {
            used_bytes,
            total_bytes,
        } => {
            let percent = u128::from(used_bytes) * 100 / u128::from(total_bytes.max(1));
            (percent >= u128::from(NEARLY_FULL)).then(|| {
                format!(
                    "{percent} % of the root disk's blocks have been written; they take room on the \
                     host until the VM is deleted"
                )
            })
        }
    }
}

/// What was last told of each VM, so that it is told once.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<VmId, Option<String>>);

impl Told {
    /// The warnings that are new.
    pub(crate) fn news(&mut self, stores: Vec<(VmId, StoreFill)>) -> Vec<(VmId, String)> {
        let now: BTreeMap<_, _> = stores
            .into_iter()
            .map(|(vm, fill)| (vm, warning(fill)))
            .collect();
        // A store that fills on has its percentage told once, and a failure when it comes.
        let kind = |warning: &Option<String>| warning.as_ref().map(|text| text.contains('%'));
        let news = now.iter().filter(|(vm, warning)| {
            warning.is_some() && self.0.get(*vm).map(kind) != Some(kind(warning))
        });
        let news = news.filter_map(|(vm, warning)| Some((vm.clone(), warning.clone()?)));
        let news = news.collect();
        self.0 = now;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(percent: u64) -> StoreFill {
        StoreFill::Used {
            used_bytes: percent << 20,
            total_bytes: 100 << 20,
        }
    }

    #[test]
    fn a_full_store_and_a_failed_one_are_warned_about() {
        assert_eq!(root_fill(used(89)).warning, None);
        let full = root_fill(used(90));
        assert!(full.warning.unwrap().starts_with("90 %"));
        assert_eq!(full.used_bytes, Some(90 << 20));
        let failed = root_fill(StoreFill::Invalid {});
        assert!(failed.warning.unwrap().contains("restart"));
        assert_eq!((failed.used_bytes, failed.total_bytes), (None, None));
        let odd = StoreFill::Used {
            used_bytes: u64::MAX,
            total_bytes: 0,
        };
        assert!(root_fill(odd).warning.is_some());
    }

    #[test]
    fn each_is_told_once_and_again_when_it_comes_again() {
        let vm: VmId = "0123456789ab".parse().unwrap();
        let mut told = Told::default();
        let mut news = |fill| told.news(vec![(vm.clone(), fill)]).len();
        assert_eq!([news(used(10)), news(used(91)), news(used(92))], [0, 1, 0]);
        assert_eq!(
            [news(StoreFill::Invalid {}), news(StoreFill::Invalid {})],
            [1, 0]
        );
        assert_eq!([news(used(92)), news(used(50)), news(used(95))], [1, 0, 1]);
        assert!(told.news(vec![]).is_empty());
    }
}
