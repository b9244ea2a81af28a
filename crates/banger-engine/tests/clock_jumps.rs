//! The host's wall clock jumps by a day, forwards and back: no wait ends by it, no deadline moves, nothing takes a
//! negative or an endless time. `auto_stop_stale_after` has the same test in `bangerd/src/stale.rs`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use banger_core::{OpId, Phase};
use banger_engine::ports::GuestState;
use banger_engine::{CreateVm, Engine, OpState};
use banger_testkit::FakeHost;
use common::{end, open, until_phase, wanted};

const NOON: &str = "2026-03-15T12:00:00Z";
const JUMPS: [&str; 2] = ["2026-03-16T12:00:00Z", "2026-03-14T12:00:00Z"];
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

/// Whether it still goes on after a while.
async fn goes_on(engine: &Engine, id: &OpId) -> bool {
    let mut watch = engine.watch(id).unwrap();
    let ended = watch.wait_for(|view| view.state != OpState::Running);
    tokio::time::timeout(SHORT, ended).await.is_err()
}

/// Every stage took some time of this test, and no more than that.
async fn took_their_time(engine: &Engine, id: &OpId, since: Instant) {
    let most = u64::try_from(since.elapsed().as_millis()).unwrap();
    for stage in engine.operation(id).await.unwrap().stages {
        let took = stage.elapsed_ms();
        assert!(took <= most, "{} took {took} ms of {most}", stage.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_and_deadlines_do_not_go_by_the_wall_clock() {
    for jump in JUMPS {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        host.set_time(NOON);
        let engine = open(&host, dir.path()).await;
        let begun = Instant::now();
        host.hang_guests();
        let request = CreateVm {
            timeout: Some(LONG),
            ..wanted(Some("demo"), true)
        };
        let made = engine.create(request).await.unwrap();
        let vm = made.vm.clone().unwrap();
        until_phase(&engine, &vm, Phase::Running).await;
        host.set_time(jump);
        assert!(goes_on(&engine, &made.id).await, "{jump}: the boot's wait");
        host.heal_guests();
        let id = made.id.clone();
        assert_eq!(end(&engine, Ok(made)).await, OpState::Succeeded, "{jump}");
        took_their_time(&engine, &id, begun).await;

        // A shutdown keeps the time that it was given.
        host.set_time(NOON);
        host.hang_guests();
        let stop = engine.stop(&vm, LONG).unwrap();
        until_phase(&engine, &vm, Phase::Stopping).await;
        host.set_time(jump);
        assert!(goes_on(&engine, &stop.id).await, "{jump}: the shutdown");
        host.heal_guests();
        let id = stop.id.clone();
        assert_eq!(end(&engine, Ok(stop)).await, OpState::Succeeded, "{jump}");
        took_their_time(&engine, &id, begun).await;
        assert_eq!(host.shutdowns(), 1, "{jump}: it was ended by force");

        // And a deadline that passes does so after its own time.
        host.set_time(NOON);
        host.hang_guests();
        let start = engine.start(&vm, Some(GuestState::Ready), Some(SHORT));
        let began = Instant::now();
        host.set_time(jump);
        let ended = end(&engine, start).await;
        assert!(matches!(ended, OpState::Failed(_)), "{jump}: {ended:?}");
        assert!(began.elapsed() >= SHORT, "{jump}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_takes_up_vms_of_another_day() {
    for jump in JUMPS {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        host.set_time(NOON);
        let engine = open(&host, dir.path()).await;
        let made = engine.create(wanted(Some("demo"), true)).await.unwrap();
        let (id, vm) = (made.id.clone(), made.vm.clone().unwrap());
        let begun = Instant::now();
        assert_eq!(end(&engine, Ok(made)).await, OpState::Succeeded);
        assert_eq!(engine.get(&vm).unwrap().started_at.as_deref(), Some(NOON));
        // Its end is stored a moment after it is seen.
        let waited = end(&engine, engine.start(&vm, Some(GuestState::Ready), None)).await;
        assert_eq!(waited, OpState::Succeeded);
        engine.abort();
        host.set_time(jump);
        let engine = open(&host, dir.path()).await;
        until_phase(&engine, &vm, Phase::Running).await;
        assert_eq!(host.launches(), 1, "{jump}");
        took_their_time(&engine, &id, begun - Duration::from_secs(1)).await;
        // A restart is of the day that the clock shows.
        let again = engine.restart(&vm, LONG, Some(GuestState::Ready), None);
        assert_eq!(end(&engine, again).await, OpState::Succeeded);
        assert_eq!(engine.get(&vm).unwrap().started_at.as_deref(), Some(jump));
        assert_eq!(engine.get(&vm).unwrap().created_at, NOON);
    }
}
