//! Guests in Firecracker: started through its API once the helper has launched it, and asked there
//! whether they run.

use std::path::Path;
use std::time::Duration;

use banger_core::{ErrorCode, VmId};
use banger_engine::ports::{Failure, LaunchRequest};
use banger_root_proto::DriveSpec;
use banger_vmm::firecracker::{
    BootError, FirecrackerError, MicroVm, MicroVmDrive, boot, has_guest, instance_state,
};

use super::{blocking, console};

/// How long a Firecracker that is asked what it does may take. One that does not answer is taken to be
/// stopped with a guest in it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Configures the Firecracker in `run` and starts the guest in it.
pub(super) async fn start_guest(
    run: &Path,
    request: &LaunchRequest,
    drives: &[DriveSpec],
    boot_args: &str,
) -> Result<(), Failure> {
    let drive = |drive: &DriveSpec| MicroVmDrive {
        name: drive.role.as_str(),
        read_only: drive.read_only,
    };
    let micro_vm = MicroVm {
        vm: request.vm.clone(),
        vcpu: request.spec.vcpu,
        memory: request.spec.memory_mib,
        boot_args: boot_args.to_owned(),
        drives: drives.iter().map(drive).collect(),
        mac: Some(request.vm.mac()),
        ephemeral: request.ephemeral,
    };
    match boot(&run.join("api"), &micro_vm).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let (log, console) = (run.join("vmm.log"), run.join("console"));
            let said = blocking(move || {
                let lines = |path: &Path| console::read_end(path).1.join(" | ");
                Ok((lines(&log), lines(&console)))
            });
            let (log, console) = said.await.unwrap_or_default();
            Err(failure(&error, &log, &console))
        }
    }
}

/// What is told of a guest that was not started, with the ends of Firecracker's log and of the console.
fn failure(error: &BootError, log: &str, console: &str) -> Failure {
    let code = match &error.source {
        FirecrackerError::Version { .. } => ErrorCode::HostNotReady,
        _ => ErrorCode::VmmFailed,
    };
    let mut failure = Failure::because(code, error.to_string(), &error.source);
    for (what, said) in [("Firecracker's log", log), ("the console", console)] {
        if !said.is_empty() {
            failure.causes.push(format!("{what} ends with: {said}"));
        }
    }
    match &error.source {
        FirecrackerError::Version { .. } => {
            failure.hint("install another Firecracker, or use `--vmm qemu`")
        }
        FirecrackerError::Gone { .. } => failure
            .hint("`banger doctor` says whether KVM works here; `--vmm qemu` does without it"),
        _ => failure,
    }
}

/// Whether the Firecracker in `run`, whose process lives, has this VM's guest in it.
pub(super) async fn guest_lives(run: &Path, vm: &VmId) -> bool {
    let answer = instance_state(&run.join("api"), vm, PATIENCE).await;
    let lives = has_guest(&answer);
    if !lives {
        tracing::warn!(%vm, ?answer, "a Firecracker has no guest of this VM in it");
    }
    lives
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_vmm::firecracker::BootStage;

    #[test]
    fn a_boot_that_failed_says_where_and_why_and_what_was_said_last() {
        let error = BootError {
            stage: BootStage::Configure,
            source: FirecrackerError::Fault {
                request: "PUT /boot-source".into(),
                status: 400,
                message: "no kernel".into(),
            },
        };
        let failure = failure(&error, "a | b", "");
        assert_eq!(failure.code, ErrorCode::VmmFailed);
        assert_eq!(
            failure.message,
            "Firecracker failed while configuring the machine"
        );
        let [why, log] = failure.causes.as_slice() else {
            panic!("{failure:?}")
        };
        assert!(why.contains("no kernel") && log == "Firecracker's log ends with: a | b");
    }
}
