//! `auto_stop_stale_after`: VMs that nobody used for so long are stopped. What counts as use stands in
//! `docs/configuration.md`. Nothing runs here when it is off.

mod streams;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use banger_core::{Phase, VmId};
use banger_engine::VmView;
use tokio::time::MissedTickBehavior;

use crate::state::State;
use crate::stats::traffic;
use crate::vm_folder;
use streams::Streams;

/// What an idle guest sends and receives between two looks stays below this, in bytes.
const NOISE: u64 = 8 << 10;
/// VMs are looked at so often at most, and at least.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long a guest has to say whether it has clients.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a clean shutdown may take.
const GRACE: Duration = Duration::from_secs(60);

/// When each VM was last used, as far as this daemon has seen.
#[derive(Debug)]
pub(crate) struct Staleness {
    after: Option<Duration>,
    seen: Mutex<HashMap<VmId, Seen>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The run that it is about: another VMM begins anew.
    vmm: Option<u32>,
    used: Instant,
    /// Bytes through the tap at the last look.
    traffic: Option<u64>,
}

/// What is seen of a VM's use at one look.
#[derive(Debug, Clone, Copy, Default)]
struct Evidence {
    /// Programs that clients have running in the guest; None: it does not answer, so nobody knows.
    programs: Option<u32>,
    /// Streams that clients hold to its agent: also copies and forwards.
    streams: usize,
    /// Connections from this host to the guest.
    connections: usize,
    /// Bytes through its tap so far.
    traffic: Option<u64>,
}

impl Seen {
    fn note(&mut self, now: Instant, evidence: Evidence) {
        let moved = match (self.traffic, evidence.traffic) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => 0,
        };
        let is_used = evidence.programs != Some(0)
            || evidence.streams > 0
            || evidence.connections > 0
            || moved > NOISE;
        if is_used {
            self.used = now;
        }
        self.traffic = evidence.traffic;
    }
}

impl Staleness {
    /// Stops VMs after so long; None: never.
    pub(crate) fn new(after: Option<Duration>) -> Self {
        Self {
            after,
            seen: Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody uses it now.
    pub(crate) fn used(&self, view: &VmView) {
        if self.after.is_some() {
            let used = Instant::now();
            let mut seen = self.lock();
            let entry = seen.entry(view.id.clone());
            entry.and_modify(|seen| seen.used = used).or_insert(Seen {
                vmm: view.vmm_pid,
                used,
                traffic: None,
            });
        }
    }

    /// In how long it will be stopped, when that is soon: in the last quarter of its time.
    pub(crate) fn stops_in(&self, view: &VmView) -> Option<Duration> {
        let after = self.after?;
        let seen = *self.lock().get(&view.id)?;
        if view.phase != Phase::Running || seen.vmm != view.vmm_pid {
            return None;
        }
        let left = after.saturating_sub(seen.used.elapsed());
        (left <= after / 4).then_some(left)
    }

    /// Takes in what was seen; whether the VM's time is over.
    fn look(&self, view: &VmView, now: Instant, evidence: Evidence) -> bool {
        let Some(after) = self.after else {
            return false;
        };
        let mut all = self.lock();
        let fresh = Seen {
            vmm: view.vmm_pid,
            used: now,
            traffic: evidence.traffic,
        };
        let seen = all.entry(view.id.clone()).or_insert(fresh);
        if seen.vmm != view.vmm_pid {
            *seen = fresh;
        }
        seen.note(now, evidence);
        now.duration_since(seen.used) >= after
    }

    /// Forgets VMs that do not run.
    fn keep(&self, running: &[VmView]) {
        self.lock()
            .retain(|vm, _| running.iter().any(|view| view.id == *vm));
    }
}

/// Looks at VMs for as long as the daemon lives, when it is on.
pub(crate) async fn watch(state: Arc<State>) {
    let Some(after) = state.staleness.after else {
        return;
    };
    let mut pace = tokio::time::interval((after / 10).clamp(LOOKS.0, LOOKS.1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let mut running = state.engine.list();
        // One that is paused cannot be used, and not be stopped cleanly.
        running.retain(|view| view.phase == Phase::Running && view.is_awake().is_ok());
        state.staleness.keep(&running);
        let table = Table::read();
        for view in &running {
            let is_over = state
                .staleness
                .look(view, Instant::now(), evidence(&state, view, &table).await)
                // The table is from before the others were asked: who came since is seen now.
                && state.staleness.look(
                    view,
                    Instant::now(),
                    evidence(&state, view, &Table::read()).await,
                );
            if is_over {
                tracing::info!(vm = %view.id, name = %view.name, "stopped: nobody used it for {after:?}");
                if let Err(failure) = state.engine.stop(&view.id, GRACE) {
                    tracing::warn!(vm = %view.id, %failure, "a stale VM could not be stopped");
                }
            }
        }
    }
}

/// What this host has of connections to guests.
#[derive(Debug, Default)]
struct Table {
    /// Of its programs, over the bridge.
    tcp: String,
    /// To agents, over vsock.
    streams: Streams,
}

impl Table {
    fn read() -> Self {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let streams = Streams::look().unwrap_or_else(|error| {
            tracing::warn!(%error, "copies and forwards do not count as use");
            Streams::default()
        });
        Self {
            tcp: read("/proc/self/net/tcp") + &read("/proc/self/net/tcp6"),
            streams,
        }
    }
}

async fn evidence(state: &State, view: &VmView, table: &Table) -> Evidence {
    let status = state.glance(&view.id, PATIENCE).await;
    Evidence {
        programs: status.map(|status| status.sessions),
        streams: table
            .streams
            .to(&state.vm_folder(&view.id).join(vm_folder::AGENT)),
        connections: connections(&table.tcp, view.address),
        traffic: traffic(&view.id).map(|(to, from)| to.saturating_add(from)),
    }
}

/// This host's established connections to an address (proc_net_tcp(5)). A program that speaks IPv6 connects to an
/// IPv4 address that is mapped into it (`::ffff:0:0/96`).
fn connections(table: &str, to: Ipv4Addr) -> usize {
    let address = format!("{:08X}:", u32::from_ne_bytes(to.octets()));
    let prefix = format!("{:016X}{:08X}", 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]));
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().take(4).collect();
        let [_, _, peer, "01"] = fields[..] else {
            return false;
        };
        peer.strip_prefix(&prefix)
            .unwrap_or(peer)
            .starts_with(&address)
    };
    table.lines().filter(is_one).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Evidence = Evidence {
        programs: Some(0),
        streams: 0,
        connections: 0,
        traffic: Some(1000),
    };

    #[test]
    fn each_kind_of_use_counts_and_noise_does_not() {
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        let used_after = |evidence| {
            let mut seen = Seen {
                vmm: Some(1),
                used: start,
                traffic: Some(1000),
            };
            seen.note(later, evidence);
            seen.used == later
        };
        assert!(!used_after(NOW));
        assert!(!used_after(Evidence {
            traffic: Some(1000 + NOISE),
            ..NOW
        }));
        assert!(used_after(Evidence {
            traffic: Some(1001 + NOISE),
            ..NOW
        }));
        assert!(used_after(Evidence {
            programs: Some(1),
            ..NOW
        }));
        // Nobody knows whether a guest that does not answer is used.
        assert!(used_after(Evidence {
            programs: None,
            ..NOW
        }));
        assert!(used_after(Evidence { streams: 1, ..NOW }));
        assert!(used_after(Evidence {
            connections: 1,
            ..NOW
        }));
        // A tap that was made anew counts from nothing, and one that cannot be read says nothing.
        assert!(!used_after(Evidence {
            traffic: Some(0),
            ..NOW
        }));
        assert!(!used_after(Evidence {
            traffic: None,
            ..NOW
        }));
    }

    fn view(vmm_pid: u32) -> VmView {
        VmView {
            id: "0123456789ab".parse().unwrap(),
            name: "demo".parse().unwrap(),
            phase: Phase::Running,
            intent: banger_core::Intent::Running,
            spec: banger_core::VmSpec::FLOOR,
            origins: banger_core::SpecOrigin::Floor.into(),
            image: "i".parse().unwrap(),
            image_digest: None,
            kernel: None,
            address: Ipv4Addr::LOCALHOST,
            readiness: None,
            vmm_pid: Some(vmm_pid),
            paused: None,
            ephemeral: false,
            created_at: String::new(),
            started_at: None,
            last_error: None,
        }
    }

    #[test]
    fn a_time_is_over_when_nothing_was_seen_for_so_long_and_each_run_has_its_own() {
        let hour = Duration::from_secs(3600);
        let staleness = Staleness::new(Some(hour));
        let start = Instant::now();
        assert!(!staleness.look(&view(1), start, NOW));
        assert!(!staleness.look(&view(1), start + hour / 2, NOW));
        assert!(staleness.look(&view(1), start + hour, NOW));
        assert!(
            !staleness.look(&view(2), start + hour, NOW),
            "started again"
        );
        let busy = Evidence {
            programs: Some(1),
            ..NOW
        };
        assert!(!staleness.look(&view(2), start + 3 * hour, busy));
        assert!(!staleness.look(&view(2), start + 3 * hour + hour / 2, NOW));
        assert!(staleness.look(&view(2), start + 4 * hour, NOW));
        staleness.used(&view(2));
        assert_eq!(staleness.stops_in(&view(2)), None, "not soon");
        staleness.keep(&[]);
        assert!(staleness.lock().is_empty());
    }

    /// What a VM's times say of the wall clock does not count: a day to and fro leaves it its time.
    #[test]
    fn a_wall_clock_that_jumps_stops_nobody() {
        let hour = Duration::from_secs(3600);
        let staleness = Staleness::new(Some(hour));
        let at = |time: &str| VmView {
            created_at: time.to_owned(),
            started_at: Some(time.to_owned()),
            ..view(1)
        };
        let days = [
            "2026-03-15T12:00:00Z",
            "2026-03-16T12:00:00Z",
            "2026-03-14T12:00:00Z",
        ];
        let start = Instant::now();
        for (minutes, day) in (0..60).step_by(10).zip(days.iter().cycle()) {
            let now = start + Duration::from_secs(minutes * 60);
            assert!(!staleness.look(&at(day), now, NOW), "{minutes} min, {day}");
            let left = staleness.stops_in(&at(day));
            assert!(left.is_none_or(|left| left <= hour), "{left:?}");
        }
        assert!(staleness.look(&at(days[2]), start + hour, NOW));
    }

    #[test]
    fn it_is_told_before_and_nothing_is_kept_when_it_is_off() {
        let staleness = Staleness::new(Some(Duration::from_nanos(1)));
        staleness.used(&view(1));
        assert_eq!(staleness.stops_in(&view(1)), Some(Duration::ZERO));
        assert_eq!(staleness.stops_in(&view(2)), None, "another run");
        let off = Staleness::new(None);
        off.used(&view(1));
        assert!(off.lock().is_empty());
        assert!(!off.look(&view(1), Instant::now(), NOW));
        assert_eq!(off.stops_in(&view(1)), None);
    }

    #[test]
    fn connections_of_this_host_are_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        assert!(connections(&table, Ipv4Addr::LOCALHOST) >= 1);
        assert_eq!(connections(&table, Ipv4Addr::new(203, 0, 113, 9)), 0);
    }

    #[test]
    fn a_connection_of_a_program_that_speaks_ipv6_is_counted() {
        let Ok(listener) = std::net::TcpListener::bind("127.0.0.1:0") else {
            panic!("no loopback")
        };
        let port = listener.local_addr().unwrap().port();
        let mapped: std::net::Ipv6Addr = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        let Ok(_client) = std::net::TcpStream::connect((mapped, port)) else {
            println!("SKIPPED (IPv6 sockets): this host has none");
            return;
        };
        let table = std::fs::read_to_string("/proc/self/net/tcp6").unwrap();
        assert!(connections(&table, Ipv4Addr::LOCALHOST) >= 1, "{table}");
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(text in any::<String>()) {
            connections(&text, Ipv4Addr::LOCALHOST);
        }
    }
}
