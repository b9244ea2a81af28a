//! What happens to VMs while the host's disk is nearly full.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use banger_core::{ByteSize, ErrorCode, KillSignal, Phase, VmId};
use banger_engine::ports::{Failure, GuestState};
use banger_engine::{Engine, OpState, PauseReason};
use banger_testkit::FakeHost;
use common::{RESERVE, end, open, running, until_phase, wanted};

const GRACE: Duration = Duration::from_secs(10);
const REACHABLE: GuestState = GuestState::Reachable;

fn mib(count: u64) -> Option<ByteSize> {
    Some(ByteSize(count << 20))
}

async fn until_paused(engine: &Engine, vm: &VmId, paused: Option<PauseReason>) {
    let mut watch = engine.watch_vm(vm).unwrap();
    let reached = watch.wait_for(|view| view.paused == paused);
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    reached.expect("it gets there").unwrap();
}

const NO_ROOM: Option<PauseReason> = Some(PauseReason::NoRoom { reserve: RESERVE });

/// A running VM on a host with little more than the reserve, so that looks come often.
async fn nearly_full(host: &FakeHost, dir: &std::path::Path) -> (Engine, VmId) {
    host.set_free(mib(700));
    let engine = open(host, dir).await;
    let vm = running(&engine).await;
    (engine, vm)
}

fn code(result: Result<(), Failure>) -> ErrorCode {
    result.unwrap_err().code
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_stand_still_while_there_is_no_room_and_go_on_after() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let (engine, vm) = nearly_full(&host, dir.path()).await;
    host.set_free(mib(400));
    until_paused(&engine, &vm, NO_ROOM).await;
    assert_eq!((host.paused(), host.living()), (1, 1));
    let view = engine.get(&vm).unwrap();
    assert_eq!((view.phase, view.last_error), (Phase::Running, None));
    // Who needs the guest is told at once.
    let waited = engine.wait_guest(&vm, REACHABLE, GRACE).await;
    assert_eq!(code(waited), ErrorCode::VmPaused);
    let started = end(&engine, engine.start(&vm, Some(REACHABLE), None)).await;
    assert!(matches!(started, OpState::Failed(failure) if failure.code == ErrorCode::VmPaused));
    // A little more than the reserve is not yet enough.
    host.set_free(mib(520));
    let other = engine.create(wanted(None, true)).await;
    let refused = end(&engine, other).await;
    assert!(matches!(refused, OpState::Failed(failure) if failure.code == ErrorCode::DiskFull));
    assert_eq!(host.paused(), 1);
    host.set_free(mib(700));
    until_paused(&engine, &vm, None).await;
    assert_eq!((host.paused(), engine.list().len()), (0, 1));
    engine.wait_guest(&vm, REACHABLE, GRACE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_finds_them_so() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let (engine, vm) = nearly_full(&host, dir.path()).await;
    host.set_free(mib(400));
    until_paused(&engine, &vm, NO_ROOM).await;
    engine.abort();
    let engine = open(&host, dir.path()).await;
    until_paused(&engine, &vm, NO_ROOM).await;
    engine.abort();
    assert_eq!(host.paused(), 1);
    // Room was made while no daemon looked.
    host.set_free(None);
    let engine = open(&host, dir.path()).await;
    until_paused(&engine, &vm, None).await;
    engine.wait_guest(&vm, REACHABLE, GRACE).await.unwrap();
    assert_eq!((host.paused(), host.launches()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_vm_is_stopped_cleanly() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let (engine, vm) = nearly_full(&host, dir.path()).await;
    host.set_free(mib(400));
    until_paused(&engine, &vm, NO_ROOM).await;
    let state = end(&engine, engine.stop(&vm, GRACE)).await;
    assert_eq!(state, OpState::Succeeded);
    let view = engine.get(&vm).unwrap();
    assert_eq!((view.phase, view.paused), (Phase::Stopped, None));
    assert_eq!((host.shutdowns(), host.living()), (1, 0));
    // And not started before there is room.
    let refused = end(&engine, engine.start(&vm, None, None)).await;
    assert!(matches!(refused, OpState::Failed(failure) if failure.code == ErrorCode::DiskFull));
    assert_eq!(engine.get(&vm).unwrap().phase, Phase::Stopped);
    host.set_free(None);
    let state = end(&engine, engine.start(&vm, None, None)).await;
    assert_eq!(state, OpState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_vm_is_killed_restarted_or_deleted_like_any_other() {
    for signal in [KillSignal::Kill, KillSignal::Term] {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let (engine, vm) = nearly_full(&host, dir.path()).await;
        host.set_free(mib(100));
        until_paused(&engine, &vm, NO_ROOM).await;
        let restarted = end(&engine, engine.restart(&vm, GRACE, None, None)).await;
        assert!(
            matches!(restarted, OpState::Failed(failure) if failure.code == ErrorCode::DiskFull)
        );
        assert_eq!(
            (host.paused(), host.launches()),
            (1, 1),
            "it was left alone"
        );
        let state = end(&engine, engine.kill(&vm, signal)).await;
        assert_eq!((state, host.living()), (OpState::Succeeded, 0), "{signal}");
    }
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let (engine, vm) = nearly_full(&host, dir.path()).await;
    host.set_free(mib(400));
    until_paused(&engine, &vm, NO_ROOM).await;
    assert_eq!(end(&engine, engine.delete(&vm)).await, OpState::Succeeded);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_is_paused_goes_on_later() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    host.set_free(mib(700));
    let engine = open(&host, dir.path()).await;
    host.hang_guests();
    let made = engine.create(wanted(None, true)).await.unwrap();
    let vm = made.vm.clone().unwrap();
    until_phase(&engine, &vm, Phase::Running).await;
    host.set_free(mib(400));
    let state = end(&engine, Ok(made)).await;
    assert!(matches!(state, OpState::Failed(failure) if failure.code == ErrorCode::VmPaused));
    assert_eq!(engine.get(&vm).unwrap().phase, Phase::Running);
    host.set_free(None);
    until_paused(&engine, &vm, None).await;
    assert_eq!(host.living(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_somebody_else_stopped_is_shown_so_and_goes_on_when_told() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let (engine, vm) = nearly_full(&host, dir.path()).await;
    host.signal_from_outside(&vm, true);
    until_paused(&engine, &vm, Some(PauseReason::Signal)).await;
    let waited = engine.wait_guest(&vm, REACHABLE, GRACE).await;
    assert_eq!(code(waited), ErrorCode::VmPaused);
    assert_eq!(host.paused(), 1);
    let state = end(&engine, engine.start(&vm, Some(REACHABLE), None)).await;
    assert_eq!((state, host.paused()), (OpState::Succeeded, 0));
    assert_eq!(engine.get(&vm).unwrap().paused, None);
}
