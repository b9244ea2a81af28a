//! Looking at VMs, and remembering the last look for whoever asks soon after, and for rates.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_api::{FileSystemFigures, GuestFigures, HostFigures, RootFill, VmStats};
use banger_core::{Phase, VmId};
use banger_engine::VmView;
use banger_guest::{AgentClient, GuestAddress};
use banger_guest_proto::{Figures, MAX_OWNER_NAME};
use tokio::sync::Mutex;

use super::disks;
use super::host::{self, Usage};

use crate::vm_folder;

/// How long a guest has to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// What a rate is measured over when there was no look shortly before.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// A look is no base for a rate when it lies longer ago.
const STALE: Duration = Duration::from_secs(60);

/// A guest's file systems that are passed on.
const MAX_FILE_SYSTEMS: usize = 8;

/// What was seen at one time.
#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    usage: Option<Usage>,
    guest: Result<Figures, String>,
}

/// The last look at a VM's run, and what was said of it.
#[derive(Debug, Clone)]
struct Last {
    pid: Option<u32>,
    look: Look,
    stats: VmStats,
}

/// The last look at each VM. Each has its turn: who asks meanwhile gets the same answer.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    vms: std::sync::Mutex<HashMap<VmId, Arc<Mutex<Option<Last>>>>>,
}

impl Sampler {
    /// A VM's figures, at most so old.
    pub(crate) async fn sample(
        &self,
        view: &VmView,
        folder: &Path,
        fill: Option<RootFill>,
        oldest: Duration,
    ) -> VmStats {
        let turn = self.turn(&view.id);
        let mut last = turn.lock().await;
        if let Some(known) = last.as_ref()
            && known.pid == view.vmm_pid
            && known.stats.phase == view.phase.as_str()
            && known.look.at.elapsed() < oldest
        {
            return known.stats.clone();
        }
        let is_base = |last: &&Last| last.pid == view.vmm_pid && last.look.at.elapsed() < STALE;
        let before = match last.as_ref().filter(is_base) {
            Some(last) => Some(last.look.clone()),
            None if view.vmm_pid.is_some() => {
                let first = look(view, folder).await;
                tokio::time::sleep(FIRST_LOOK).await;
                Some(first)
            }
            None => None,
        };
        let look = look(view, folder).await;
        let stats = VmStats {
            vm: view.name.to_string(),
            id: view.id.to_string(),
            phase: view.phase.as_str().to_owned(),
            host: host_figures(before.as_ref(), &look, host::traffic(&view.id)),
            guest: guest_figures(before.as_ref(), &look),
            guest_problem: match &look.guest {
                Err(why) if view.phase == Phase::Running => Some(why.clone()),
                _ => None,
            },
            disks: disks::read(folder, view.spec.storage, fill),
        };
        *last = Some(Last {
            pid: view.vmm_pid,
            look,
            stats: stats.clone(),
        });
        stats
    }

    fn turn(&self, vm: &VmId) -> Arc<Mutex<Option<Last>>> {
        let mut vms = self
            .vms
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(vms.entry(vm.clone()).or_default())
    }

    /// Forgets VMs that are gone.
    pub(crate) fn keep(&self, there: &[VmView]) {
        let mut vms = self
            .vms
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        vms.retain(|vm, _| there.iter().any(|view| view.id == *vm));
    }
}

async fn look(view: &VmView, folder: &Path) -> Look {
    let usage = view.vmm_pid.and_then(|pid| host::usage(&view.id, pid));
    let guest = match view.is_awake() {
        Ok(()) => ask(folder).await,
        Err(failure) => Err(failure.message),
    };
    Look {
        at: Instant::now(),
        usage,
        guest,
    }
}

async fn ask(folder: &Path) -> Result<Figures, String> {
    let address = GuestAddress::new(folder.join(vm_folder::AGENT));
    let asking = async {
        let stream = address.dial().await.map_err(|error| error.to_string())?;
        let figures = AgentClient::over(stream).figures().await;
        figures.map_err(|error| error.to_string())
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer,
        Err(_) => Err("the guest's agent did not answer in time".to_owned()),
    }
}

/// Hundredths of a processor, from processor seconds in between.
fn percent(before: f64, now: f64, between: Duration) -> Option<f64> {
    let seconds = between.as_secs_f64();
    let used = now - before;
    // Too short for the kernel's ticks, or a counter that began anew.
    (seconds >= 0.05 && used >= 0.0).then(|| (used / seconds * 1000.0).round() / 10.0)
}

fn host_figures(
    before: Option<&Look>,
    now: &Look,
    traffic: Option<(u64, u64)>,
) -> Option<HostFigures> {
    let usage = now.usage?;
    let earlier = before.and_then(|look| Some((look.at, look.usage?)));
    Some(HostFigures {
        cpu_percent: earlier.and_then(|(at, earlier)| {
            percent(
                earlier.cpu_seconds,
                usage.cpu_seconds,
                now.at.duration_since(at),
            )
        }),
        cpu_seconds: usage.cpu_seconds,
        memory: usage.memory,
        network_received: traffic.map(|(to, _)| to),
        network_sent: traffic.map(|(_, from)| from),
        uptime_seconds: usage.uptime_seconds,
    })
}

/// A guest's figures, which can be anything, as figures that make sense.
fn guest_figures(before: Option<&Look>, now: &Look) -> Option<GuestFigures> {
    let figures = now.guest.as_ref().ok()?;
    let seconds = |ms: u64| ms as f64 / 1000.0;
    // Over the guest's own time: one whose clock stands still is not busy.
    let earlier = before.and_then(|look| look.guest.as_ref().ok());
    let cpu_percent = earlier.and_then(|earlier| {
        let between = figures.uptime_ms.checked_sub(earlier.uptime_ms)?;
        let most = 100.0 * f64::from(figures.cpus.max(1));
        let percent = percent(
            seconds(earlier.cpu_busy_ms),
            seconds(figures.cpu_busy_ms),
            Duration::from_millis(between),
        );
        percent.map(|percent| percent.min(most))
    });
    let file_system = |it: &banger_guest_proto::FileSystem| FileSystemFigures {
        path: it
            .path
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_OWNER_NAME)
            .collect(),
        total: it.total,
        used: it.used.min(it.total),
    };
    Some(GuestFigures {
        cpu_percent,
        cpu_seconds: seconds(figures.cpu_busy_ms),
        load: f64::from(figures.load_centi) / 100.0,
        memory_total: figures.memory_total,
        memory_used: figures
            .memory_total
            .saturating_sub(figures.memory_available),
        processes: figures.processes,
        file_systems: figures
            .file_systems
            .iter()
            .take(MAX_FILE_SYSTEMS)
            .map(file_system)
            .collect(),
        network_received: figures.network_received,
        network_sent: figures.network_sent,
        uptime_seconds: seconds(figures.uptime_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn look_at(at: Instant, cpu_seconds: f64, guest: Figures) -> Look {
        Look {
            at,
            usage: Some(Usage {
                cpu_seconds,
                memory: 7,
                uptime_seconds: Some(9.0),
            }),
            guest: Ok(guest),
        }
    }

    #[test]
    fn rates_are_over_the_time_between_two_looks() {
        let start = Instant::now();
        let guest = |uptime_ms, cpu_busy_ms| Figures {
            uptime_ms,
            cpu_busy_ms,
            cpus: 2,
            memory_total: 100,
            memory_available: 30,
            ..Figures::default()
        };
        let first = look_at(start, 1.0, guest(1000, 500));
        let second = look_at(start + Duration::from_secs(2), 2.0, guest(3000, 3500));
        let host = host_figures(Some(&first), &second, Some((5, 6))).unwrap();
        assert_eq!(host.cpu_percent, Some(50.0));
        assert_eq!(
            (host.network_received, host.network_sent),
            (Some(5), Some(6))
        );
        let seen = guest_figures(Some(&first), &second).unwrap();
        assert_eq!((seen.cpu_percent, seen.memory_used), (Some(150.0), 70));
        let alone = host_figures(None, &second, None).unwrap();
        assert_eq!(alone.cpu_percent, None);
        // A guest that has booted again counts from nothing.
        let again = look_at(start + Duration::from_secs(4), 2.0, guest(10, 5));
        assert_eq!(
            guest_figures(Some(&second), &again).unwrap().cpu_percent,
            None
        );
    }

    proptest! {
        #[test]
        fn a_guest_that_lies_makes_nothing_absurd(
            uptime: [u64; 2], busy: [u64; 2], cpus: u32, total: u64, available: u64, used: u64,
        ) {
            let figures = |at: usize| Figures {
                uptime_ms: uptime[at],
                cpu_busy_ms: busy[at],
                cpus,
                memory_total: total,
                memory_available: available,
                file_systems: vec![banger_guest_proto::FileSystem {
                    path: "\u{1b}[2J".repeat(99), total, used,
                }; 99],
                ..Figures::default()
            };
            let now = Instant::now();
            let (first, second) = (look_at(now, 0.0, figures(0)), look_at(now, 0.0, figures(1)));
            let seen = guest_figures(Some(&first), &second).unwrap();
            prop_assert!(seen.memory_used <= seen.memory_total);
            prop_assert!(seen.file_systems.len() <= MAX_FILE_SYSTEMS);
            let is_sane = |it: &FileSystemFigures| it.used <= it.total && !it.path.contains('\u{1b}');
            prop_assert!(seen.file_systems.iter().all(is_sane));
            let most = 100.0 * f64::from(cpus.max(1));
            prop_assert!(seen.cpu_percent.is_none_or(|percent| (0.0..=most).contains(&percent)));
        }
    }
}
