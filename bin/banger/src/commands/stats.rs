//! `vm stats`.

use banger_api::{DiskFigures, StatsList, VmStats};
use banger_core::ByteSize;
use futures_util::future::join_all;

use super::show::table;
use super::{CommandResult, Context};
use crate::start::Needs;

/// `vm stats`: of the VMs that are named, or of all.
pub(crate) async fn stats(context: &Context<'_>, vms: &[String]) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let list = if vms.is_empty() {
        client.stats().await?
    } else {
        let all = join_all(vms.iter().map(|vm| client.vm_stats(vm))).await;
        StatsList {
            vms: all.into_iter().collect::<Result<_, _>>()?,
        }
    };
    context.ui.result(&list, text);
    for vm in &list.vms {
        if let Some(problem) = &vm.guest_problem {
            context
                .ui
                .note(&format!("{}: nothing from the guest: {problem}", vm.vm));
        }
    }
    Ok(0)
}

fn text(list: &StatsList) -> String {
    if list.vms.is_empty() {
        return "no VMs; `banger vm run` makes one".to_owned();
    }
    let header = [
        "NAME",
        "PHASE",
        "CPU",
        "GUEST CPU",
        "MEMORY",
        "GUEST MEMORY",
        "ROOT",
        "WORK",
        "NET IN",
        "NET OUT",
        "UPTIME",
    ];
    table(&header, list.vms.iter().map(row).collect())
}

fn row(vm: &VmStats) -> Vec<String> {
    let (host, guest) = (vm.host.as_ref(), vm.guest.as_ref());
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let percent = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.1} %")));
    let bytes = |value: Option<u64>| or_dash(value.map(|value| ByteSize(value).to_string()));
    let disk = |name: &str| or_dash(vm.disks.iter().find(|it| it.disk == name).map(disk));
    let guest_memory = guest.map(|it| {
        let [used, total] = [it.memory_used, it.memory_total].map(ByteSize);
        format!("{used} / {total}")
    });
    let up = host.and_then(|it| it.uptime_seconds);
    let up = up.or_else(|| guest.map(|it| it.uptime_seconds));
    vec![
        vm.vm.clone(),
        vm.phase.clone(),
        percent(host.and_then(|it| it.cpu_percent)),
        percent(guest.and_then(|it| it.cpu_percent)),
        bytes(host.map(|it| it.memory)),
        or_dash(guest_memory),
        disk("root"),
        disk("work"),
        bytes(host.and_then(|it| it.network_received)),
        bytes(host.and_then(|it| it.network_sent)),
        or_dash(up.map(uptime)),
    ]
}

/// What it takes, of what the guest sees.
fn disk(disk: &DiskFigures) -> String {
    let written = disk.fill.as_ref().and_then(|fill| fill.used_bytes);
    let real = ByteSize(written.unwrap_or(disk.real_bytes));
    match disk.virtual_bytes {
        Some(size) => format!("{real} / {}", ByteSize(size)),
        None => real.to_string(),
    }
}

fn uptime(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::{FileSystemFigures, GuestFigures, HostFigures};

    fn list() -> StatsList {
        let disk = |name: &str, real_bytes, virtual_bytes| DiskFigures {
            disk: name.to_owned(),
            virtual_bytes,
            real_bytes,
            fill: None,
        };
        let stats = |vm: &str, phase: &str| VmStats {
            vm: vm.to_owned(),
            id: "0123456789ab".to_owned(),
            phase: phase.to_owned(),
            host: None,
            guest: None,
            guest_problem: None,
            disks: vec![
                disk("root", 5 << 20, Some(8 << 30)),
                disk("work", 70 << 20, Some(8 << 30)),
            ],
        };
        let running = VmStats {
            host: Some(HostFigures {
                cpu_percent: Some(12.5),
                cpu_seconds: 34.5,
                memory: 700 << 20,
                network_received: Some(1500),
                network_sent: Some(3 << 20),
                uptime_seconds: Some(3700.2),
            }),
            guest: Some(GuestFigures {
                cpu_percent: Some(3.1),
                cpu_seconds: 12.0,
                load: 0.25,
                memory_total: 1 << 30,
                memory_used: 300 << 20,
                processes: 80,
                file_systems: vec![FileSystemFigures {
                    path: "/".to_owned(),
                    total: 8 << 30,
                    used: 1 << 30,
                }],
                network_received: 1400,
                network_sent: 3 << 20,
                uptime_seconds: 3699.0,
            }),
            ..stats("demo", "running")
        };
        let silent = VmStats {
            guest_problem: Some("the guest's agent did not answer in time".to_owned()),
            ..stats("lost", "running")
        };
        StatsList {
            vms: vec![running, silent, stats("old", "stopped")],
        }
    }

    #[test]
    fn the_table() {
        insta::assert_snapshot!(text(&list()));
    }

    #[test]
    fn the_json() {
        insta::assert_json_snapshot!(list().vms[0]);
    }

    #[test]
    fn times_are_short() {
        let of = |seconds: u64| uptime(seconds as f64);
        assert_eq!(
            [of(5), of(65), of(3700), of(90_000)],
            ["5s", "1m05s", "1h01m", "1d01h"]
        );
    }
}
