//! The engine's types as the API's.

use banger_api::{
    ApiError, Image as ApiImage, ImageRunConfig, Kernel as ApiKernel, Operation, OperationKind,
    OperationState, Readiness, SpecLine, Stage, StageState, Vm, VmPaths, WorkSeedOrigin,
};
use banger_core::{ImageName, Phase, VmId};
use banger_engine::ports::{Failure, GuestState};
use banger_engine::{AtWork, OpKind, OpState, OperationView, StageStatus, StageView, VmView};
use banger_image::{Image, SeedState};
use banger_kernel::Kernel;

use crate::adapters::FILE_SYNC_WARNINGS;
use crate::state::State;
use crate::vm_folder;

pub(crate) fn error(failure: &Failure) -> ApiError {
    ApiError {
        code: failure.code,
        message: failure.message.clone(),
        causes: failure.causes.clone(),
        hints: failure.hints.clone(),
        subject: None,
        op_id: failure.operation.as_ref().map(ToString::to_string),
    }
}

/// `at_work`: the operation that works on it.
pub(crate) fn vm(state: &State, view: &VmView, at_work: Option<&AtWork>) -> Vm {
    let folder = state.vm_folder(&view.id);
    let path = |name: &str| folder.join(name).display().to_string();
    let is_up = view.phase == Phase::Running;
    Vm {
        id: view.id.to_string(),
        name: view.name.to_string(),
        phase: phase_word(view).to_owned(),
        pause_reason: view.paused.map(|why| why.to_string()),
        intent: view.intent.as_str().to_owned(),
        readiness: match view.readiness {
            Some(GuestState::Ready) => Readiness::Ready,
            Some(GuestState::Reachable) => Readiness::Reachable,
            None => Readiness::None,
        },
        address: view.address.to_string(),
        dns_name: format!("{}.vm", view.name),
        image: view.image.to_string(),
        image_digest: view
            .image_digest
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        kernel: view
            .kernel
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        vcpu: view.spec.vcpu,
        memory_mib: view.spec.memory_mib.0,
        disk_size: view.spec.disk_size.0,
        nat: view.spec.nat,
        vmm: view.spec.vmm.to_string(),
        storage: view.spec.storage.to_string(),
        root_fill: None,
        vmm_pid: view.vmm_pid,
        ephemeral: view.ephemeral,
        created_at: view.created_at.clone(),
        started_at: view.started_at.clone().filter(|_| is_up),
        last_error: view.last_error.as_ref().map(|failure| ApiError {
            subject: Some(view.name.to_string()),
            ..error(failure)
        }),
        operation: at_work.map(|operation| banger_api::AtWork {
            id: operation.id.to_string(),
            kind: kind(operation.kind),
        }),
        stops_unused_in_s: state.staleness.stops_in(view).map(|left| left.as_secs()),
        warnings: vec![],
        paths: VmPaths {
            overlay: path(view.spec.storage.file_name()),
            work_disk: path("work.ext4"),
            console_log: path("console.log"),
            vmm_log: path(vm_folder::VMM_LOG),
        },
    }
}

/// What clients see of the phase: that its guest stands still is of more use than that it runs.
fn phase_word(view: &VmView) -> &'static str {
    match view.paused {
        Some(_) if view.phase == Phase::Running => "paused",
        _ => view.phase.as_str(),
    }
}

pub(crate) fn stage(view: &StageView) -> Stage {
    Stage {
        key: view.key.clone(),
        title: view.title.clone(),
        state: match view.status {
            StageStatus::Running => StageState::Running,
            StageStatus::Done => StageState::Done,
            StageStatus::Failed => StageState::Failed,
        },
        elapsed_ms: view.elapsed_ms(),
        detail: view.detail.clone(),
    }
}

const fn kind(kind: OpKind) -> OperationKind {
    match kind {
        OpKind::CreateVm => OperationKind::CreateVm,
        OpKind::StartVm => OperationKind::StartVm,
        OpKind::StopVm => OperationKind::StopVm,
        OpKind::RestartVm => OperationKind::RestartVm,
        OpKind::KillVm => OperationKind::KillVm,
        OpKind::SetVm => OperationKind::SetVm,
        OpKind::DeleteVm => OperationKind::DeleteVm,
        OpKind::BuildImage => OperationKind::BuildImage,
        OpKind::PullImage => OperationKind::PullImage,
        OpKind::RegisterImage => OperationKind::RegisterImage,
        OpKind::PromoteImage => OperationKind::PromoteImage,
        OpKind::ImportKernel => OperationKind::ImportKernel,
    }
}

pub(crate) fn operation(state: &State, view: &OperationView) -> Operation {
    let (op_state, failure) = match &view.state {
        OpState::Running => (OperationState::Running, None),
        OpState::Succeeded => (OperationState::Succeeded, None),
        OpState::Cancelled => (OperationState::Cancelled, None),
        OpState::Failed(failure) => (OperationState::Failed, Some(error(failure))),
    };
    let vm = view.vm.as_ref().and_then(|vm| state.engine.get(vm));
    let spec = vm
        .filter(|_| view.kind == OpKind::CreateVm)
        .map(|vm| SpecLine {
            vcpu: vm.spec.vcpu,
            memory_mib: vm.spec.memory_mib,
            disk_size: vm.spec.disk_size,
            origins: vm.origins,
        });
    let starts = matches!(
        view.kind,
        OpKind::CreateVm | OpKind::StartVm | OpKind::RestartVm
    );
    let warnings = match &view.vm {
        Some(vm) if starts && view.state == OpState::Succeeded => file_sync_warnings(state, vm),
        _ => vec![],
    };
    Operation {
        id: view.id.to_string(),
        kind: kind(view.kind),
        subject: view.subject.clone(),
        vm_id: view.vm.as_ref().map(ToString::to_string),
        state: op_state,
        stages: view.stages.iter().map(stage).collect(),
        error: failure.map(|failure| ApiError {
            subject: Some(view.subject.clone()),
            op_id: Some(view.id.to_string()),
            ..failure
        }),
        spec,
        warnings,
    }
}

/// What of `[[file_sync]]` a VM did not get at its last start.
pub(crate) fn file_sync_warnings(state: &State, vm: &VmId) -> Vec<String> {
    let told = state.vm_folder(vm).join(FILE_SYNC_WARNINGS);
    let told = std::fs::read_to_string(told).unwrap_or_default();
    told.lines().map(str::to_owned).collect()
}

pub(crate) fn image(image: &Image, default: &ImageName) -> ApiImage {
    let (size, disk_usage) = image.sizes().unwrap_or_default();
    let record = &image.record;
    ApiImage {
        name: record.name.to_string(),
        default: record.name == *default,
        digest: record.digest.to_string(),
        origin: match (&record.origin, &record.elsewhere) {
            (_, Some(_)) => "registered",
            (Some(_), None) => "pulled",
            (None, None) if record.catalog.is_some() => "pulled",
            (None, None) => "built",
        }
        .to_owned(),
        reference: record
            .origin
            .as_ref()
            .map(|origin| origin.reference.to_string()),
        config: image.config().map(run_config),
        catalog: record.catalog.clone(),
        rootfs: image.rootfs().display().to_string(),
        work_seed: image.work_seed().map(|seed| seed.display().to_string()),
        work_seed_state: match image.seed_state() {
            SeedState::Current => "current",
            SeedState::Stale => "stale",
            SeedState::Missing => "missing",
        }
        .to_owned(),
        work_seed_origin: image.seed_origin().map(|origin| WorkSeedOrigin {
            format: origin.format,
            made_from: origin.made_from.to_string(),
        }),
        kernel: record.kernel.as_ref().map(ToString::to_string),
        size,
        disk_usage,
        recipe_fingerprint: record.recipe_fingerprint.as_ref().map(ToString::to_string),
        stale: image.is_stale(),
        changed: image.changed().map(|path| path.display().to_string()),
        created_at: record.created_at.clone(),
        contents: record.contents.clone(),
        ready: record.ready.clone(),
        built_on: record
            .built
            .as_ref()
            .map(|built| format!("{} {}", built.base, built.base_digest.short())),
    }
}

fn run_config(config: &banger_oci::ImageConfig) -> ImageRunConfig {
    ImageRunConfig {
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone(),
        user: config.user.clone(),
        working_dir: config.working_dir.clone(),
        exposed_ports: config.exposed_ports.clone(),
        stop_signal: config.stop_signal.clone(),
    }
}

pub(crate) fn kernel(kernel: &Kernel, default: Option<&Kernel>) -> ApiKernel {
    let record = &kernel.record;
    ApiKernel {
        name: record.name.to_string(),
        release: record.release.clone(),
        digest: record.digest.to_string(),
        source: record.source.clone(),
        vmlinux: kernel.vmlinux().display().to_string(),
        modules: kernel
            .modules()
            .map(|modules| modules.display().to_string()),
        segment: kernel.segment().display().to_string(),
        initrd: kernel.own_initrd().map(|path| path.display().to_string()),
        default: default == Some(kernel),
        created_at: record.created_at.clone(),
    }
}
