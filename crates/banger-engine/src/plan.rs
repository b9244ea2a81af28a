//! Which steps lead from the facts to what is wanted. Pure. Steps of one group may run side by side;
//! a group starts when the one before it is done. Removals come first, then additions.

use banger_core::VmSpec;

use crate::ports::VmFacts;
use crate::step::Step;

/// From anything to a launched VMM. Drives are made when they are missing, so it also finishes a
/// provisioning that was interrupted; `provisioned` says that they were made a moment ago.
#[must_use]
pub fn plan_start(facts: &VmFacts, provisioned: bool) -> Vec<Vec<Step>> {
    let mut plan = Vec::new();
    if facts.vmm.remains || facts.vmm.vmm.is_some() || facts.vmm.backend.is_some() {
        plan.extend([vec![Step::CollectConsole], vec![Step::ClearVmm]]);
    }
    if !provisioned {
        plan.extend(plan_provision());
    }
    plan.extend([vec![Step::Tap, Step::Config], vec![Step::Launch]]);
    plan
}

/// The drives alone.
#[must_use]
pub(crate) fn plan_provision() -> Vec<Vec<Step>> {
    vec![
        vec![Step::Image],
        vec![Step::Kernel],
        vec![Step::Folder],
        vec![Step::RootDisk, Step::WorkDisk],
    ]
}

/// From the specification `now` to `then`, which the VM's facts allow.
#[must_use]
pub fn plan_set(facts: &VmFacts, now: &VmSpec, then: &VmSpec) -> Vec<Vec<Step>> {
    let mut plan = Vec::new();
    if then.disk_size > now.disk_size {
        // What is left of a VMM may still own the disk.
        if facts.vmm.remains {
            plan.extend([vec![Step::CollectConsole], vec![Step::ClearVmm]]);
        }
        plan.push(vec![Step::GrowWorkDisk]);
    }
    // Without a tap the next start makes one that is right.
    if facts.tap.is_some_and(|tap| tap.nat != then.nat) {
        plan.push(vec![Step::SetNat]);
    }
    plan
}

/// From anything to nothing that runs. The disks stay.
#[must_use]
pub fn plan_teardown(facts: &VmFacts) -> Vec<Vec<Step>> {
    let mut plan = Vec::new();
    if facts.vmm.remains || facts.vmm.vmm.is_some() || facts.vmm.backend.is_some() {
        plan.push(vec![Step::CollectConsole]);
        plan.push(vec![Step::RemoveVmm]);
    }
    if facts.tap.is_some() {
        plan.push(vec![Step::RemoveTap]);
    }
    plan
}

/// From anything to nothing at all.
#[must_use]
pub fn plan_delete(facts: &VmFacts) -> Vec<Vec<Step>> {
    let mut plan = plan_teardown(facts);
    plan.retain(|group| group != &[Step::CollectConsole]);
    if facts.folder {
        plan.push(vec![Step::RemoveFolder]);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{TapFacts, VmmFacts};

    fn everything() -> VmFacts {
        let address = std::net::Ipv4Addr::new(172, 16, 0, 2);
        VmFacts {
            vmm: VmmFacts {
                vmm: Some(1),
                backend: Some(2),
                paused: false,
                remains: true,
            },
            tap: Some(TapFacts {
                address,
                nat: false,
            }),
            folder: true,
        }
    }

    #[test]
    fn nothing_is_removed_that_is_not_there() {
        assert!(plan_teardown(&VmFacts::default()).is_empty());
        assert!(plan_delete(&VmFacts::default()).is_empty());
    }

    #[test]
    fn a_delete_ends_the_vmm_before_it_takes_its_files() {
        let plan: Vec<Step> = plan_delete(&everything()).concat();
        assert_eq!(plan, [Step::RemoveVmm, Step::RemoveTap, Step::RemoveFolder]);
    }

    #[test]
    fn a_change_does_only_what_differs() {
        let now = VmSpec::FLOOR;
        let larger = VmSpec {
            disk_size: banger_core::ByteSize::gib(16),
            ..now.clone()
        };
        let open = VmSpec {
            nat: true,
            ..now.clone()
        };
        let nothing = VmFacts::default();
        assert!(plan_set(&everything(), &now, &now).is_empty());
        assert_eq!(
            plan_set(&nothing, &now, &larger).concat(),
            [Step::GrowWorkDisk]
        );
        assert_eq!(
            plan_set(&everything(), &now, &open).concat(),
            [Step::SetNat]
        );
        assert!(plan_set(&nothing, &now, &open).is_empty());
    }

    #[test]
    fn a_start_removes_first_and_launches_last() {
        let plan: Vec<Step> = plan_start(&everything(), false).concat();
        assert_eq!(plan.first(), Some(&Step::CollectConsole));
        assert_eq!(plan[1], Step::ClearVmm);
        assert_eq!(plan.last(), Some(&Step::Launch));
    }
}
