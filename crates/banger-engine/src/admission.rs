//! Asking the domain what a VM answers just now ([`banger_core::answer`]), and saying no in words.

use banger_core::{Answer, ErrorCode, Phase, Situation, Verb, VmmState, answer};
use banger_store::VmRow;

use crate::actor::Actor;
use crate::inner::Wish;
use crate::ports::Failure;

impl Actor {
    /// Whether the turn of a wish that has come leads to anything.
    pub(crate) async fn admit(&self, wish: &Wish) -> Result<(), Failure> {
        let Some(verb) = wish.verb(&self.row.spec) else {
            return Ok(());
        };
        let now = Situation {
            phase: self.row.phase,
            vmm: self.vmm_state(verb).await?,
        };
        match answer(now, verb) {
            Answer::Does | Answer::Nothing => Ok(()),
            // It was killed while somebody else stopped it, or by itself: that is what was asked.
            Answer::Refused(ErrorCode::VmNotRunning) if wish.came_to_a_vm_that_ran() => Ok(()),
            Answer::Refused(code) => Err(refusal(&self.row, code)),
        }
    }

    async fn vmm_state(&self, verb: Verb) -> Result<VmmState, Failure> {
        // Where disks are at stake the host is asked, else what it last said is enough.
        if verb == Verb::SetSizes {
            let vmm = self.facts().await?.vmm;
            return Ok(match vmm.vmm.or(vmm.backend) {
                Some(_) => VmmState::Runs,
                None => VmmState::Gone,
            });
        }
        let view = self.view.borrow();
        Ok(match (view.paused, view.vmm_pid) {
            (Some(_), _) => VmmState::Paused,
            (None, Some(_)) => VmmState::Runs,
            (None, None) => VmmState::Gone,
        })
    }
}

fn refusal(row: &VmRow, code: ErrorCode) -> Failure {
    let VmRow { name, phase, .. } = row;
    let is = phase.as_str();
    match code {
        ErrorCode::VmRunning if *phase == Phase::Failed => {
            let what = format!("the VM `{name}` has failed, and its VMM still runs");
            Failure::new(code, what).hint(format!("end it: banger vm stop {name}"))
        }
        ErrorCode::VmRunning => {
            let what = format!("the VM `{name}` is not stopped: it is {is}");
            Failure::new(code, what).hint(format!("stop it: banger vm stop {name}"))
        }
        ErrorCode::VmNotRunning => {
            Failure::new(code, format!("the VM `{name}` does not run: it is {is}"))
        }
        _ if *phase == Phase::Deleting => {
            let what = format!("the VM `{name}` is half deleted");
            Failure::new(code, what).hint(format!("delete the rest: banger vm delete {name}"))
        }
        _ => Failure::new(code, format!("the VM `{name}` cannot do that: it is {is}"))
            .hint(format!("start it, or delete it: banger vm start {name}")),
    }
}
