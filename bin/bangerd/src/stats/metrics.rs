//! `/metrics`: the same figures as a scraper takes them (OpenMetrics text).

use std::sync::atomic::AtomicU64;

use banger_api::VmStats;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Vm {
    vm: String,
    id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Disk {
    vm: String,
    id: String,
    disk: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    phase: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: String,
}

type Level = Family<Vm, Gauge<f64, AtomicU64>>;
type Total = Family<Vm, Counter<f64, AtomicU64>>;
type DiskLevel = Family<Disk, Gauge<f64, AtomicU64>>;

/// The registry of one answer.
struct Page {
    registry: Registry,
}

impl Page {
    fn level(&mut self, name: &str, help: &str, unit: Unit) -> Level {
        let family = Level::default();
        self.registry
            .register_with_unit(name, help, unit, family.clone());
        family
    }

    fn total(&mut self, name: &str, help: &str, unit: Unit) -> Total {
        let family = Total::default();
        self.registry
            .register_with_unit(name, help, unit, family.clone());
        family
    }

    fn disk(&mut self, name: &str, help: &str) -> DiskLevel {
        let family = DiskLevel::default();
        self.registry
            .register_with_unit(name, help, Unit::Bytes, family.clone());
        family
    }
}

/// The page for these VMs.
///
/// # Errors
/// The library cannot write text.
pub(crate) fn render(vms: &[VmStats], version: &str) -> Result<String, std::fmt::Error> {
    let mut page = Page {
        registry: Registry::with_prefix("banger"),
    };
    let build = Family::<Build, Gauge>::default();
    page.registry
        .register("build", "The daemon's version", build.clone());
    let version = version.to_owned();
    build.get_or_create(&Build { version }).set(1);
    let phases = Family::<InPhase, Gauge>::default();
    page.registry
        .register("vms", "VMs by what they do", phases.clone());
    let cpu = page.total(
        "vm_cpu",
        "Processor time that the VMM has used",
        Unit::Seconds,
    );
    let memory = page.level(
        "vm_memory",
        "Memory of the host that the VMM holds",
        Unit::Bytes,
    );
    let uptime = page.level("vm_uptime", "How long the VMM has run", Unit::Seconds);
    let received = page.total("vm_network_received", "Went to the guest", Unit::Bytes);
    let sent = page.total("vm_network_sent", "Came from the guest", Unit::Bytes);
    let virtual_size = page.disk("vm_disk_virtual", "How large the guest sees a disk");
    let real_size = page.disk("vm_disk_real", "What a disk takes on the host");
    let guest_cpu = page.total(
        "guest_cpu",
        "Time that the guest's processors were busy, by its own word",
        Unit::Seconds,
    );
    let guest_total = page.level(
        "guest_memory_total",
        "What the guest's kernel manages",
        Unit::Bytes,
    );
    let guest_used = page.level(
        "guest_memory_used",
        "Of which this much is held",
        Unit::Bytes,
    );
    let guest_load = Level::default();
    page.registry.register(
        "guest_load",
        "Average number of running programs over a minute",
        guest_load.clone(),
    );
    for vm in vms {
        let phase = vm.phase.clone();
        phases.get_or_create(&InPhase { phase }).inc();
        let labels = Vm {
            vm: vm.vm.clone(),
            id: vm.id.clone(),
        };
        let set = |family: &Level, value: f64| {
            family.get_or_create(&labels).set(value);
        };
        let count = |family: &Total, value: f64| {
            family.get_or_create(&labels).inc_by(value);
        };
        if let Some(host) = &vm.host {
            count(&cpu, host.cpu_seconds);
            set(&memory, host.memory as f64);
            if let Some(seconds) = host.uptime_seconds {
                set(&uptime, seconds);
            }
            if let (Some(to), Some(from)) = (host.network_received, host.network_sent) {
                count(&received, to as f64);
                count(&sent, from as f64);
            }
        }
        if let Some(guest) = &vm.guest {
            count(&guest_cpu, guest.cpu_seconds);
            set(&guest_total, guest.memory_total as f64);
            set(&guest_used, guest.memory_used as f64);
            set(&guest_load, guest.load);
        }
        for disk in &vm.disks {
            let labels = Disk {
                vm: vm.vm.clone(),
                id: vm.id.clone(),
                disk: disk.disk.clone(),
            };
            if let Some(bytes) = disk.virtual_bytes {
                virtual_size.get_or_create(&labels).set(bytes as f64);
            }
            real_size.get_or_create(&labels).set(disk.real_bytes as f64);
        }
    }
    let mut text = String::new();
    encode(&mut text, &page.registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::{DiskFigures, GuestFigures, HostFigures};

    #[test]
    fn the_page() {
        let vm = |name: &str, host, guest, phase: &str| VmStats {
            vm: name.to_owned(),
            id: "0123456789ab".to_owned(),
            phase: phase.to_owned(),
            host,
            guest,
            guest_problem: None,
            disks: vec![DiskFigures {
                disk: "work".to_owned(),
                virtual_bytes: Some(8 << 30),
                real_bytes: 4 << 20,
                fill: None,
            }],
        };
        let host = HostFigures {
            cpu_percent: Some(1.0),
            cpu_seconds: 2.5,
            memory: 300 << 20,
            network_received: Some(10),
            network_sent: Some(20),
            uptime_seconds: Some(60.0),
        };
        let guest = GuestFigures {
            cpu_percent: None,
            cpu_seconds: 1.5,
            load: 0.25,
            memory_total: 1 << 30,
            memory_used: 1 << 29,
            processes: 80,
            file_systems: vec![],
            network_received: 1,
            network_sent: 2,
            uptime_seconds: 59.0,
        };
        let vms = [
            vm("demo", Some(host), Some(guest), "running"),
            vm("old", None, None, "stopped"),
        ];
        // Families have no order of their own.
        let text = render(&vms, "0.1.0").unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn no_vms_is_a_page_too() {
        let text = render(&[], "0.1.0").unwrap();
        assert!(text.contains("banger_build{version=\"0.1.0\"} 1"), "{text}");
    }
}
