//! Operations that an earlier daemon left in the middle: those of a VM go on with it under their own
//! ids, so that whoever waits for one can come back to it; the others have ended with that daemon.

use std::sync::{Arc, PoisonError};

use banger_core::{ErrorCode, Phase, VmId};
use banger_store::Store;

use crate::inner::Inner;
use crate::operation::{OpKind, Operation, StageStatus};
use crate::ports::Failure;
use crate::stored;

/// Whether a VM in that phase is where such an operation left it.
const fn goes_on(kind: OpKind, phase: Phase) -> bool {
    match kind {
        OpKind::CreateVm => matches!(
            phase,
            Phase::Provisioning | Phase::Starting | Phase::Running
        ),
        OpKind::StartVm => matches!(phase, Phase::Starting | Phase::Running),
        OpKind::StopVm | OpKind::KillVm => matches!(phase, Phase::Stopping),
        // A restart keeps the wish that the VM runs: recovery goes on from whichever half it was in.
        OpKind::RestartVm => matches!(phase, Phase::Stopping | Phase::Starting | Phase::Running),
        OpKind::DeleteVm => matches!(phase, Phase::Deleting),
        OpKind::SetVm
        | OpKind::BuildImage
        | OpKind::PullImage
        | OpKind::RegisterImage
        | OpKind::PromoteImage
        | OpKind::ImportKernel => false,
    }
}

fn interrupted(kind: OpKind) -> Failure {
    let failure = Failure::new(
        ErrorCode::DaemonUnavailable,
        "the daemon ended in the middle of it",
    );
    match kind {
        OpKind::BuildImage
        | OpKind::PullImage
        | OpKind::RegisterImage
        | OpKind::PromoteImage
        | OpKind::ImportKernel => failure.hint("nothing of it is left; begin it again"),
        _ => failure.hint("`banger vm show` tells where the VM stands"),
    }
}

impl Inner {
    /// Takes up what is stored of operations that have not ended. Called once, before any wish.
    pub(crate) async fn take_up_operations(self: &Arc<Self>) -> Result<(), Failure> {
        for row in self.store(Store::unfinished_operations).await? {
            let Some(mut view) = stored::read(&row) else {
                continue;
            };
            // What was going on is done again, under a stage of its own.
            for stage in &mut view.stages {
                if stage.status == StageStatus::Running {
                    stage.status = StageStatus::Failed;
                }
            }
            let phase = view
                .vm
                .as_ref()
                .and_then(|vm| self.handle(vm))
                .map(|handle| handle.view.borrow().phase);
            let op = Operation::again(view);
            let kind = op.view().kind;
            self.follow(&op);
            match phase {
                Some(phase) if goes_on(kind, phase) => self
                    .resumed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(op),
                // The VM is gone, and that was all that it was to do.
                None if kind == OpKind::DeleteVm => self.finish(&op, Ok(())).await,
                _ => self.finish(&op, Err(interrupted(kind))).await,
            }
        }
        Ok(())
    }

    /// The operations that go on with this VM: the first is the one to go on with.
    pub(crate) fn resumed_of(&self, vm: &VmId) -> Vec<Arc<Operation>> {
        let mut all = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        all.extract_if(.., |op| op.view().vm.as_ref() == Some(vm))
            .collect()
    }

    /// Ends those that nobody goes on with.
    pub(crate) async fn end_resumed(&self, rest: Vec<Arc<Operation>>) {
        for op in rest {
            let kind = op.view().kind;
            self.finish(&op, Err(interrupted(kind))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_goes_on_only_where_it_left_the_vm() {
        assert!(goes_on(OpKind::CreateVm, Phase::Provisioning));
        assert!(goes_on(OpKind::CreateVm, Phase::Running));
        assert!(!goes_on(OpKind::CreateVm, Phase::Failed));
        assert!(!goes_on(OpKind::StartVm, Phase::Provisioning));
        // A stop that was only asked for is not what the VM is doing.
        assert!(!goes_on(OpKind::StopVm, Phase::Running));
        assert!(!goes_on(OpKind::BuildImage, Phase::Running));
    }
}
