//! Doing steps: journal the resource, do it, confirm it. No decisions.

use std::sync::Mutex;

use banger_core::{ErrorCode, VmId};
use banger_store::VmRow;
use futures_util::future::join_all;

use crate::inner::Inner;
use crate::operation::TaskContext;
use crate::ports::{
    Failure, GuestIdentity, LaunchRequest, OwnDisk, Progress, ResolvedImage, ResolvedKernel,
    Unwatched, VmmFacts,
};
use crate::step::Step;

/// What steps learn and later steps need.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) image: Mutex<Option<ResolvedImage>>,
    pub(crate) kernel: Mutex<Option<ResolvedKernel>>,
    pub(crate) launched: Mutex<Option<VmmFacts>>,
}

fn locked<T: Clone>(value: &Mutex<Option<T>>) -> Option<T> {
    value
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone()
}

fn put<T>(value: &Mutex<Option<T>>, found: T) {
    *value
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(found);
}

/// A step that failed, by name.
#[derive(Debug)]
pub(crate) struct FailedStep {
    pub(crate) step: Step,
    pub(crate) failure: Failure,
}

/// Runs one group of steps side by side.
pub(crate) async fn run_group(
    inner: &Inner,
    row: &VmRow,
    group: &[Step],
    findings: &Findings,
    context: Option<&TaskContext>,
) -> Result<(), FailedStep> {
    let made = made_before(inner, row, group).await?;
    let keys: Vec<&'static str> = group.iter().map(|step| step.key()).collect();
    let journal = |vm: VmId, intended: Vec<&'static str>, confirmed: Vec<&'static str>| {
        inner.store(move |store| store.journal(&vm, &intended, &confirmed))
    };
    let in_group = |failure| FailedStep {
        step: group[0],
        failure,
    };
    // What was made once stays noted as made, whatever comes between.
    let intended = group.iter().filter(|step| !made.contains(step));
    journal(
        row.id.clone(),
        intended.map(|step| step.key()).collect(),
        vec![],
    )
    .await
    .map_err(in_group)?;
    let work = group
        .iter()
        .map(|step| run_step(inner, row, *step, findings, context));
    let results = join_all(work).await;
    let done =
        |(key, result): (&&'static str, &Result<(), Failure>)| result.is_ok().then_some(*key);
    let confirmed = keys.iter().zip(&results).filter_map(done).collect();
    journal(row.id.clone(), vec![], confirmed)
        .await
        .map_err(in_group)?;
    for (step, result) in group.iter().zip(results) {
        result.map_err(|failure| FailedStep {
            step: *step,
            failure,
        })?;
    }
    Ok(())
}

/// The disks among the steps that were made before: they hold what cannot be made again.
///
/// # Errors
/// When one of them is gone. An empty one in its place would look like the VM's.
async fn made_before(inner: &Inner, row: &VmRow, group: &[Step]) -> Result<Vec<Step>, FailedStep> {
    let disk = |step: &Step| Some((*step, step.disk(row.spec.storage)?));
    let disks: Vec<(Step, OwnDisk)> = group.iter().filter_map(disk).collect();
    let Some((first, _)) = disks.first() else {
        return Ok(vec![]);
    };
    let failed = |step: Step| move |failure| FailedStep { step, failure };
    let vm = row.id.clone();
    let journal = inner.store(move |store| store.journal_of(&vm)).await;
    let journal = journal.map_err(failed(*first))?;
    let is_made = |step: Step| {
        let mut lines = journal.iter();
        lines.any(|line| line.resource == step.key() && line.confirmed)
    };
    let mut made = vec![];
    for (step, disk) in disks.into_iter().filter(|(step, _)| is_made(*step)) {
        let is_there = inner.ports.drives.has_disk(&row.id, disk).await;
        if !is_there.map_err(failed(step))? {
            return Err(failed(step)(gone(row, step)));
        }
        made.push(step);
    }
    Ok(made)
}

fn gone(row: &VmRow, step: Step) -> Failure {
    let (title, name) = (step.title(), &row.name);
    Failure::new(
        ErrorCode::DiskLost,
        format!("the {title} of `{name}` is gone"),
    )
    .hint(format!(
        "`banger vm show {name}` tells where it was: put it back and start the VM again"
    ))
    .hint(format!("`banger vm delete {name}` gives up what was on it"))
}

async fn run_step(
    inner: &Inner,
    row: &VmRow,
    step: Step,
    findings: &Findings,
    context: Option<&TaskContext>,
) -> Result<(), Failure> {
    let context = context.map(|context| context.for_stage(step.key()));
    if let Some(context) = &context {
        context.begin(step.key(), step.title());
    }
    let unwatched = Unwatched;
    let progress: &dyn Progress = context.as_ref().map_or(&unwatched, |context| context);
    let result = do_step(inner, row, step, findings, progress).await;
    if let Some(context) = &context {
        context.end(step.key(), result.is_ok());
    }
    result
}

async fn do_step(
    inner: &Inner,
    row: &VmRow,
    step: Step,
    findings: &Findings,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let ports = &inner.ports;
    let vm = &row.id;
    let missing =
        |what: &str| Failure::new(ErrorCode::Internal, format!("the {what} was not resolved"));
    let image = || locked(&findings.image).ok_or_else(|| missing("image"));
    let kernel = || locked(&findings.kernel).ok_or_else(|| missing("kernel"));
    match step {
        Step::Image => {
            let image = match &row.image_digest {
                Some(digest) => ports.images.by_digest(&row.image, digest).await?,
                None => ports.images.ensure(Some(&row.image), progress).await?,
            };
            put(&findings.image, image);
            Ok(())
        }
        Step::Kernel => {
            let wanted = row.kernel.clone().or(image()?.kernel);
            put(
                &findings.kernel,
                ports.kernels.ensure(wanted.as_ref(), progress).await?,
            );
            Ok(())
        }
        Step::Folder => ports.drives.ensure_folder(vm).await,
        Step::RootDisk => {
            ports
                .drives
                .ensure_root_disk(vm, &image()?, row.spec.storage)
                .await
        }
        Step::WorkDisk => {
            ports
                .drives
                .ensure_work_disk(vm, &image()?, row.spec.disk_size)
                .await
        }
        Step::GrowWorkDisk => ports.drives.grow_work_disk(vm, row.spec.disk_size).await,
        Step::SetNat => ports.helper.set_nat(vm, row.spec.nat).await,
        Step::ClearVmm | Step::RemoveVmm => ports.helper.remove_vmm(vm).await,
        Step::Tap => {
            ports.helper.ensure_network().await?;
            ports.helper.ensure_tap(vm, row.address, row.spec.nat).await
        }
        Step::Config => {
            let identity = GuestIdentity {
                vm: vm.clone(),
                name: row.name.clone(),
                address: row.address,
                kernel_release: kernel()?.release,
            };
            ports.drives.write_config(&identity).await
        }
        Step::Launch => {
            let request = LaunchRequest {
                vm: vm.clone(),
                spec: row.spec.clone(),
                image: image()?,
                kernel: kernel()?,
                ephemeral: row.ephemeral,
            };
            put(&findings.launched, ports.helper.launch(&request).await?);
            Ok(())
        }
        Step::CollectConsole => ports.drives.collect_console(vm).await,
        Step::RemoveTap => ports.helper.remove_tap(vm).await,
        Step::RemoveFolder => ports.drives.remove_folder(vm).await,
    }
}
