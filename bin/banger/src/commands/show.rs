//! `vm list` and `vm show`.

use banger_api::Vm;
use banger_core::ByteSize;
use comfy_table::{Table, presets};

use super::{CommandResult, Context};
use crate::start::Needs;

/// A table without lines.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// `vm list`.
pub(crate) async fn list(context: &Context<'_>) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let vms = client.vms().await?;
    context.ui.result(&vms, |vms| {
        if vms.vms.is_empty() {
            return "no VMs; `banger vm run` makes one".to_owned();
        }
        let row = |vm: &Vm| {
            vec![
                vm.name.clone(),
                phase(vm),
                vm.address.clone(),
                vm.image.clone(),
                vm.vcpu.to_string(),
                format!("{} MiB", vm.memory_mib),
                ByteSize(vm.disk_size).to_string(),
            ]
        };
        let header = [
            "NAME", "PHASE", "ADDRESS", "IMAGE", "VCPU", "MEMORY", "DISK",
        ];
        table(&header, vms.vms.iter().map(row).collect())
    });
    for vm in &vms.vms {
        if let Some(reason) = &vm.pause_reason {
            context.ui.note(&format!("{} is paused: {reason}", vm.name));
        }
    }
    Ok(0)
}

/// What it does; and when that ends, where that is soon.
fn phase(vm: &Vm) -> String {
    match vm.stops_unused_in_s {
        Some(left) if left >= 120 => format!("{} (unused, stops in {} min)", vm.phase, left / 60),
        Some(left) => format!("{} (unused, stops in {left} s)", vm.phase),
        None => vm.phase.clone(),
    }
}

/// `vm show`.
pub(crate) async fn show(context: &Context<'_>, reference: &str) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let vm = client.vm(reference).await?;
    context.ui.result(&vm, describe);
    Ok(0)
}

fn describe(vm: &Vm) -> String {
    let mut rows = vec![
        ("name", vm.name.clone()),
        ("id", vm.id.clone()),
        ("phase", phase(vm)),
        ("intent", vm.intent.clone()),
        ("readiness", format!("{:?}", vm.readiness).to_lowercase()),
        ("address", format!("{} ({})", vm.address, vm.dns_name)),
        (
            "image",
            format!(
                "{} {}",
                vm.image,
                vm.image_digest.get(..12).unwrap_or_default()
            ),
        ),
        ("kernel", vm.kernel.clone()),
        ("vcpu", vm.vcpu.to_string()),
        ("memory", format!("{} MiB", vm.memory_mib)),
        ("disk", ByteSize(vm.disk_size).to_string()),
        ("nat", if vm.nat { "on" } else { "off" }.to_owned()),
        (
            "vmm",
            format!(
                "{} {}",
                vm.vmm,
                vm.vmm_pid
                    .map(|pid| format!("(pid {pid})"))
                    .unwrap_or_default()
            ),
        ),
        ("storage", vm.storage.clone()),
        ("created", vm.created_at.clone()),
        (
            "started",
            vm.started_at.clone().unwrap_or_else(|| "-".into()),
        ),
        ("root disk", vm.paths.overlay.clone()),
        ("work disk", vm.paths.work_disk.clone()),
        ("console", vm.paths.console_log.clone()),
        ("vmm log", vm.paths.vmm_log.clone()),
    ];
    if let Some(fill) = &vm.root_fill {
        if let (Some(used), Some(total)) = (fill.used_bytes, fill.total_bytes) {
            let [used, total] = [used, total].map(ByteSize);
            rows.push(("root fill", format!("{used} of {total} written")));
        }
        rows.extend(fill.warning.clone().map(|warning| ("warning", warning)));
    }
    if let Some(operation) = &vm.operation {
        let what = format!("{} {}", operation.kind.as_str(), operation.id);
        rows.insert(4, ("operation", what));
    }
    if let Some(reason) = &vm.pause_reason {
        rows.insert(3, ("paused", reason.clone()));
    }
    rows.extend(
        vm.warnings
            .iter()
            .map(|warning| ("warning", warning.clone())),
    );
    if let Some(error) = &vm.last_error {
        rows.insert(
            4,
            (
                "last error",
                format!("{} [{}]", error.message, error.code.as_str()),
            ),
        );
        rows.extend(
            error
                .causes
                .iter()
                .map(|cause| ("  caused by", cause.clone())),
        );
    }
    rows.iter()
        .map(|(key, value)| format!("{key:<11} {}\n", value.trim_end()))
        .collect()
}
