//! What the host's kernel knows of a VM: its VMM's process, or its unit's control group where other users'
//! processes are hidden, and its tap.

use std::fs;

use banger_core::{TapName, VmId};

/// The VMM's use of the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) memory: u64,
    /// How long it has run.
    pub(super) uptime_seconds: Option<f64>,
}

/// Reads it. None: it has ended, or is hidden.
pub(super) fn usage(vm: &VmId, pid: u32) -> Option<Usage> {
    let text = |path: String| fs::read_to_string(path).ok();
    if let Some(stat) = text(format!("/proc/{pid}/stat")) {
        let ticks = rustix::param::clock_ticks_per_second();
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let now = text("/proc/uptime".to_owned());
        return process(&stat, ticks, page, now.as_deref().and_then(seconds));
    }
    let group = format!("/sys/fs/cgroup/banger.slice/banger-vm-{vm}.service");
    let cpu = text(format!("{group}/cpu.stat"))?;
    let memory = text(format!("{group}/memory.stat"))?;
    Some(Usage {
        cpu_seconds: keyed(&cpu, "usage_usec")? as f64 / 1e6,
        // What cannot be dropped: the guest's memory is one or the other.
        memory: keyed(&memory, "anon")?.saturating_add(keyed(&memory, "shmem")?),
        uptime_seconds: None,
    })
}

/// A line of proc_pid_stat(5). The program's name stands in parentheses and can hold anything.
fn process(stat: &str, ticks: u64, page: u64, now: Option<f64>) -> Option<Usage> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first of them is field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let seconds = |ticks_used: u64| ticks_used as f64 / ticks.max(1) as f64;
    let started = seconds(field(22)?);
    Some(Usage {
        cpu_seconds: seconds(field(14)?.saturating_add(field(15)?)),
        memory: field(24)?.saturating_mul(page),
        uptime_seconds: now.map(|now| (now - started).max(0.0)),
    })
}

/// The first number of a text.
fn seconds(text: &str) -> Option<f64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// The number after a key that has a line of its own.
fn keyed(text: &str, key: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value?.trim().parse().ok()
}

/// Bytes that went to the guest and came from it.
pub(crate) fn traffic(vm: &VmId) -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/net/dev").ok()?;
    tap(&text, TapName::of(vm).as_str())
}

/// A tap's line of /proc/net/dev: what it sends, the guest receives.
fn tap(dev: &str, name: &str) -> Option<(u64, u64)> {
    let counters = dev.lines().find_map(|line| {
        let (found, counters) = line.split_once(':')?;
        (found.trim() == name).then_some(counters)
    })?;
    let counters: Vec<u64> = counters
        .split_ascii_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    Some((*counters.get(8)?, *counters.first()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &str = "42 (qemu) x) y) S 1 42 42 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 5 0 1000 900000 1024 184467";

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let found = process(STAT, 100, 4096, Some(70.0)).unwrap();
        let expected = Usage {
            cpu_seconds: 3.0,
            memory: 4 << 20,
            uptime_seconds: Some(60.0),
        };
        assert_eq!(found, expected);
        assert_eq!(process("42 (x", 100, 4096, None), None);
    }

    #[test]
    fn this_process_uses_something() {
        let vm = "0123456789ab".parse().unwrap();
        let found = usage(&vm, std::process::id()).unwrap();
        assert!(found.memory > 1 << 20 && found.uptime_seconds.is_some());
        assert_eq!(usage(&vm, u32::MAX), None);
    }

    #[test]
    fn what_a_tap_sends_its_guest_receives() {
        let dev = "Inter-|\n    lo: 1 0 0 0 0 0 0 0 2 0\nbgr0123456789ab: 70 1 0 0 0 0 0 0 90 1 0 0 0 0 0 0\n";
        assert_eq!(tap(dev, "bgr0123456789ab"), Some((90, 70)));
        assert_eq!(tap(dev, "bgr0"), None);
    }

    #[test]
    fn a_control_groups_keys_are_whole_words() {
        let text = "anon_thp 5\nanon 7\nshmem 9\n";
        assert_eq!(
            (
                keyed(text, "anon"),
                keyed(text, "shmem"),
                keyed(text, "file")
            ),
            (Some(7), Some(9), None)
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in any::<String>(), ticks: u64) {
            let _ = process(&text, ticks, 4096, seconds(&text));
            let _ = process(&format!("1 (a) {text}"), ticks, u64::MAX, None);
            let _ = (keyed(&text, "anon"), tap(&text, "bgr"));
        }
    }
}
