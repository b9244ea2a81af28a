//! What this guest uses of what it has: read when it is asked for, never otherwise.

use std::fs;

use banger_guest_proto::{Figures, FileSystem};

use super::state::uptime_ms;

/// Reads the kernel's figures.
pub(super) fn read() -> Figures {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let ticks = rustix::param::clock_ticks_per_second();
    let mut figures = Figures {
        uptime_ms: uptime_ms(),
        ..Figures::default()
    };
    processors(&text("/proc/stat"), ticks, &mut figures);
    memory(&text("/proc/meminfo"), &mut figures);
    load(&text("/proc/loadavg"), &mut figures);
    network(&text("/proc/self/net/dev"), &mut figures);
    figures.file_systems = ["/", "/root"].into_iter().filter_map(file_system).collect();
    // No work disk: both are one file system.
    figures.file_systems.dedup_by_key(|it| (it.total, it.used));
    figures
}

fn file_system(path: &str) -> Option<FileSystem> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(FileSystem {
        path: path.to_owned(),
        total: bytes(stat.f_blocks),
        used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
    })
}

/// `cpu  user nice system idle iowait irq softirq steal guest guest_nice` (proc_stat(5)); what guests
/// of this guest use is in user and nice already.
fn processors(stat: &str, ticks_per_second: u64, figures: &mut Figures) {
    let per_second = ticks_per_second.max(1);
    let ms = |ticks: u64| ticks.saturating_mul(1000) / per_second;
    for line in stat.lines() {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        if name == "cpu" {
            let times: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
            let of = |at: usize| times.get(at).copied().unwrap_or(0);
            let busy = [0, 1, 2, 5, 6].into_iter().map(of);
            figures.cpu_busy_ms = ms(busy.fold(0, u64::saturating_add));
            figures.cpu_steal_ms = ms(of(7));
        } else if name.starts_with("cpu") {
            figures.cpus = figures.cpus.saturating_add(1);
        }
    }
}

fn memory(meminfo: &str, figures: &mut Figures) {
    let bytes = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|rest| rest.split_ascii_whitespace().next());
        let kib: u64 = kib.and_then(|kib| kib.parse().ok()).unwrap_or(0);
        kib.saturating_mul(1024)
    };
    figures.memory_total = bytes("MemTotal:");
    figures.memory_available = bytes("MemAvailable:");
}

/// `0.20 0.18 0.12 1/80 11206`: the last but one has running and existing threads.
fn load(loadavg: &str, figures: &mut Figures) {
    let mut words = loadavg.split_ascii_whitespace();
    let minute = words.next().unwrap_or_default();
    let (whole, hundredths) = minute.split_once('.').unwrap_or((minute, "0"));
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    let hundredths = number(hundredths).min(99);
    figures.load_centi = number(whole).saturating_mul(100).saturating_add(hundredths);
    let tasks = words.nth(2).and_then(|tasks| tasks.split_once('/'));
    figures.processes = tasks.map_or(0, |(_, all)| number(all));
}

fn network(dev: &str, figures: &mut Figures) {
    for line in dev.lines() {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let counters: Vec<u64> = counters
            .split_ascii_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let of = |at: usize| counters.get(at).copied().unwrap_or(0);
        figures.network_received = figures.network_received.saturating_add(of(0));
        figures.network_sent = figures.network_sent.saturating_add(of(8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let mut figures = Figures::default();
        let stat = "cpu  100 1 50 9000 7 2 3 40 0 0\ncpu0 1\ncpu1 1\nintr 5\n";
        processors(stat, 100, &mut figures);
        memory(
            "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n",
            &mut figures,
        );
        load("1.25 0.18 0.12 1/80 11206\n", &mut figures);
        let dev =
            "Inter-|\n face |bytes\n  lo: 5 0 0 0 0 0 0 0 5 0\n  eth0: 70 1 0 0 0 0 0 0 90 1 0\n";
        network(dev, &mut figures);
        let expected = Figures {
            cpus: 2,
            cpu_busy_ms: 1560,
            cpu_steal_ms: 400,
            load_centi: 125,
            memory_total: 1000 << 10,
            memory_available: 400 << 10,
            processes: 80,
            network_received: 70,
            network_sent: 90,
            ..Figures::default()
        };
        assert_eq!(figures, expected);
    }

    #[test]
    fn this_machine_has_figures() {
        let figures = read();
        assert!(figures.cpus > 0 && figures.uptime_ms > 0 && figures.memory_total > 0);
        assert!(figures.memory_available <= figures.memory_total);
        assert_eq!(figures.file_systems[0].path, "/");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in any::<String>(), ticks: u64) {
            let mut figures = Figures::default();
            processors(&text, ticks, &mut figures);
            processors("cpu 18446744073709551615 18446744073709551615 1\n", ticks, &mut figures);
            memory(&text, &mut figures);
            load(&text, &mut figures);
            network(&text, &mut figures);
        }
    }
}
