//! How large a VM becomes: flags, then `[vm_defaults]`, then what the host has, then the floor. Pure.

use banger_core::{ByteSize, MemoryMib, SpecOrigin, SpecOrigins, VmSpec};

use crate::config::VmDefaults;

/// What the host has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    pub(crate) cpus: u16,
    pub(crate) memory: MemoryMib,
}

impl Host {
    /// This host.
    pub(crate) fn here() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cpus: u16::try_from(cpus).unwrap_or(u16::MAX),
            memory: MemoryMib(total_mib(&meminfo)),
        }
    }
}

fn total_mib(meminfo: &str) -> u32 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line
        .and_then(|line| line.split_ascii_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok());
    u32::try_from(kib.unwrap_or(0) / 1024).unwrap_or(u32::MAX)
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) vcpu: Option<u16>,
    pub(crate) memory: Option<MemoryMib>,
    pub(crate) disk: Option<ByteSize>,
    pub(crate) nat: Option<bool>,
}

/// The sizes, and where each came from.
pub(crate) fn effective(asked: Asked, defaults: &VmDefaults, host: Host) -> (VmSpec, SpecOrigins) {
    // VMM and storage are chosen elsewhere.
    let floor = VmSpec::FLOOR;
    let host_vcpu = (host.cpus / 4).clamp(1, 4);
    let host_memory = (host.memory.0 / 8).min(8 << 10);
    // The floor raises what is derived, never beyond what the host has.
    let derive = |derived: u32, floor: u32, most: u32| {
        if derived >= floor {
            (derived, SpecOrigin::Host)
        } else {
            (floor.min(most), SpecOrigin::Floor)
        }
    };
    let (vcpu, vcpu_from) = derive(host_vcpu.into(), floor.vcpu.into(), host.cpus.max(1).into());
    let (memory, memory_from) = derive(host_memory, floor.memory_mib.0, host.memory.0);
    let pick = |flag: bool, config: bool, derived: SpecOrigin| match (flag, config) {
        (true, _) => SpecOrigin::Flag,
        (false, true) => SpecOrigin::Config,
        (false, false) => derived,
    };
    let origins = SpecOrigins {
        vcpu: pick(asked.vcpu.is_some(), defaults.vcpu.is_some(), vcpu_from),
        memory_mib: pick(
            asked.memory.is_some(),
            defaults.memory_mib.is_some(),
            memory_from,
        ),
        disk_size: pick(
            asked.disk.is_some(),
            defaults.disk_size.is_some(),
            SpecOrigin::Host,
        ),
    };
    let spec = VmSpec {
        vcpu: asked
            .vcpu
            .or(defaults.vcpu)
            .unwrap_or(u16::try_from(vcpu).unwrap_or(1)),
        memory_mib: asked
            .memory
            .or(defaults.memory_mib)
            .unwrap_or(MemoryMib(memory)),
        disk_size: asked.disk.or(defaults.disk_size).unwrap_or(floor.disk_size),
        nat: asked.nat.unwrap_or(false),
        ..floor
    };
    (spec, origins)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Host = Host {
        cpus: 2,
        memory: MemoryMib(24_000),
    };
    const LARGE: Host = Host {
        cpus: 64,
        memory: MemoryMib(256 << 10),
    };

    #[test]
    fn each_source_has_its_turn() {
        let none = VmDefaults::default();
        let from = |vcpu, memory_mib, disk_size| SpecOrigins {
            vcpu,
            memory_mib,
            disk_size,
        };
        let (host, floor) = (SpecOrigin::Host, SpecOrigin::Floor);
        let (spec, origins) = effective(Asked::default(), &none, SMALL);
        assert_eq!(
            (spec.vcpu, spec.memory_mib, origins),
            (2, MemoryMib(3000), from(floor, host, host))
        );
        let (spec, origins) = effective(Asked::default(), &none, LARGE);
        assert_eq!(
            (spec.vcpu, spec.memory_mib, origins),
            (4, MemoryMib(8 << 10), host.into())
        );
        let defaults = VmDefaults {
            vcpu: Some(3),
            ..VmDefaults::default()
        };
        let (spec, origins) = effective(Asked::default(), &defaults, LARGE);
        assert_eq!(
            (spec.vcpu, origins),
            (3, from(SpecOrigin::Config, host, host))
        );
        let asked = Asked {
            vcpu: Some(1),
            ..Asked::default()
        };
        let (spec, origins) = effective(asked, &defaults, LARGE);
        assert_eq!(
            (spec.vcpu, origins),
            (1, from(SpecOrigin::Flag, host, host))
        );
    }

    #[test]
    fn a_tiny_host_gives_no_more_than_it_has() {
        let host = Host {
            cpus: 1,
            memory: MemoryMib(512),
        };
        let (spec, _) = effective(Asked::default(), &VmDefaults::default(), host);
        assert_eq!((spec.vcpu, spec.memory_mib), (1, MemoryMib(512)));
        assert_eq!(total_mib("MemTotal:       24576000 kB\n"), 24_000);
    }
}
