//! What a VM costs the engine: create and start, list, and taking up again, with 10, 100 and 1,000 of them on
//! the modelled host. Prints a table, and the cost per VM of the largest as a ratio to that of the smallest.
//!
//! `cargo bench -p banger-engine --bench scale`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark: its figures are its result, and it ends where it fails"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use banger_engine::{Engine, OpState};
use banger_testkit::FakeHost;
use common::{end, open_in, wanted};

const COUNTS: [usize; 3] = [10, 100, 1000];
/// How many creates are under way at once.
const SIDE_BY_SIDE: usize = 32;
const LISTS: u32 = 50;

/// The first and last address of guests: room for a thousand.
const GUESTS: (Ipv4Addr, Ipv4Addr) = (
    Ipv4Addr::new(172, 16, 0, 1),
    Ipv4Addr::new(172, 16, 15, 254),
);

/// Costs per VM.
struct Costs {
    create: Duration,
    list: Duration,
    take_up: Duration,
    memory: f64,
}

fn main() {
    println!("   VMs   create/s  per VM: create    list  take up   memory (the model's too)");
    let costs: Vec<Costs> = COUNTS.into_iter().map(measure_and_print).collect();
    let [first, .., last] = &costs[..] else {
        return;
    };
    let ratio = |of: fn(&Costs) -> Duration| of(last).as_secs_f64() / of(first).as_secs_f64();
    println!(
        "1,000 / 10, per VM: create {:.2}, list {:.2}, take up {:.2} (flat is 1)",
        ratio(|costs| costs.create),
        ratio(|costs| costs.list),
        ratio(|costs| costs.take_up),
    );
}

fn measure_and_print(count: usize) -> Costs {
    // A runtime of its own: nothing of the one before runs on.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let costs = runtime.block_on(measure(count, dir.path()));
    println!(
        "{count:>6} {:>10.0} {:>13.2} ms {:>5.1} us {:>5.1} us {:>6.1} KiB",
        1.0 / costs.create.as_secs_f64(),
        costs.create.as_secs_f64() * 1e3,
        costs.list.as_secs_f64() * 1e6,
        costs.take_up.as_secs_f64() * 1e6,
        costs.memory / 1024.0,
    );
    costs
}

async fn measure(count: usize, dir: &Path) -> Costs {
    let per_vm = |time: Duration| time / u32::try_from(count).unwrap();
    let host = FakeHost::default();
    let engine = open_in(&host, dir, GUESTS).await;
    let before = resident();
    let start = Instant::now();
    create_all(&engine, count).await;
    let create = per_vm(start.elapsed());
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let memory = resident().saturating_sub(before) as f64 / count as f64;

    let start = Instant::now();
    for _ in 0..LISTS {
        assert_eq!(black_box(engine.list()).len(), count);
    }
    let list = per_vm(start.elapsed() / LISTS);

    // The daemon dies, and the next one takes up what runs.
    engine.abort();
    drop(engine);
    let start = Instant::now();
    let engine = open_in(&host, dir, GUESTS).await;
    let take_up = per_vm(start.elapsed());
    assert_eq!((engine.list().len(), host.living()), (count, count));
    engine.abort();
    Costs {
        create,
        list,
        take_up,
        memory,
    }
}

async fn create_all(engine: &Engine, count: usize) {
    for batch in (0..count).collect::<Vec<_>>().chunks(SIDE_BY_SIDE) {
        let all = batch.iter().map(|number| async move {
            let name = format!("vm-{number}");
            let operation = engine.create(wanted(Some(&name), true)).await;
            assert_eq!(end(engine, operation).await, OpState::Succeeded);
        });
        futures_util::future::join_all(all).await;
    }
}

/// This process' resident memory in bytes (`/proc/self/statm`, proc_pid_statm(5)).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
