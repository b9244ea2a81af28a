//! The VM that has a name which another one was to get: what is told of it.

use banger_core::{ErrorCode, Intent, Phase, VmName};

use crate::operation::{AtWork, OpKind};
use crate::ports::Failure;
use crate::view::VmView;

const ANOTHER: &str = "choose another name with --name";

/// `holder` has the name; `at_work` works on it.
pub(crate) fn name_taken(holder: &VmView, at_work: Option<AtWork>) -> Failure {
    let name = &holder.name;
    let create = at_work.filter(|operation| operation.kind == OpKind::CreateVm);
    if create.is_none() && holder.phase != Phase::Provisioning {
        let phase = holder.phase.as_str();
        return taken(name, &format!("that VM is {phase}"))
            .hint(format!("{ANOTHER}, or delete that VM"));
    }
    let follow = match holder.intent {
        Intent::Running => format!("`banger vm start {name}` waits until it is ready"),
        Intent::Stopped | Intent::Deleted => format!("`banger vm show {name}` tells how far it is"),
    };
    Failure {
        operation: create.map(|operation| operation.id),
        ..taken(name, "that VM is still being created")
            .hint(follow)
            .hint(ANOTHER)
    }
}

/// Of a VM about which nothing is known: its row cannot be read, or it has just gone.
pub(crate) fn taken(name: &VmName, by: &str) -> Failure {
    let what = format!("the name `{name}` is taken: {by}");
    Failure::new(ErrorCode::NameTaken, what)
}
