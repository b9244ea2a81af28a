//! Restart, kill, other sizes, and what may be deleted unseen.

mod common;

use std::time::Duration;

use banger_core::{ByteSize, ErrorCode, KillSignal, MemoryMib, Phase, SpecChange, VmId, VmSpec};
use banger_engine::ports::{Failure, GuestState};
use banger_engine::{Engine, OpState, OperationView};
use banger_testkit::{FailMode, Failpoint, FakeHost};
use common::{end, open, running, until_phase, wanted};

const GRACE: Duration = Duration::from_secs(5);

fn larger() -> SpecChange {
    SpecChange {
        vcpu: Some(3),
        memory_mib: Some(MemoryMib(2048)),
        disk_size: Some(ByteSize::gib(16)),
        nat: None,
    }
}

fn with_nat(nat: bool) -> SpecChange {
    SpecChange {
        nat: Some(nat),
        ..SpecChange::default()
    }
}

async fn stopped(engine: &Engine) -> VmId {
    let vm = running(engine).await;
    let state = end(engine, engine.stop(&vm, GRACE)).await;
    assert_eq!(state, OpState::Succeeded);
    vm
}

async fn fails(engine: &Engine, operation: Result<OperationView, Failure>) -> ErrorCode {
    match end(engine, operation).await {
        OpState::Failed(failure) => failure.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_a_clean_end_and_a_new_boot() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    let ready = Some(GuestState::Ready);
    let state = end(&engine, engine.restart(&vm, GRACE, ready, None)).await;
    assert_eq!(state, OpState::Succeeded);
    assert_eq!((host.shutdowns(), host.launches()), (1, 2));
    assert_eq!(engine.get(&vm).unwrap().readiness, ready);
    // One that does not run is started.
    end(&engine, engine.stop(&vm, GRACE)).await;
    let state = end(&engine, engine.restart(&vm, GRACE, ready, None)).await;
    assert_eq!((state, host.launches()), (OpState::Succeeded, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_vm_is_stopped_and_starts_again() {
    for signal in [KillSignal::Kill, KillSignal::Term] {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let vm = running(&engine).await;
        let state = end(&engine, engine.kill(&vm, signal)).await;
        assert_eq!(state, OpState::Succeeded);
        let view = engine.get(&vm).unwrap();
        assert_eq!((view.phase, view.last_error), (Phase::Stopped, None));
        assert_eq!((host.living(), host.shutdowns()), (0, 0));
        let again = fails(&engine, engine.kill(&vm, signal)).await;
        assert_eq!(again, ErrorCode::VmNotRunning);
        let state = end(&engine, engine.start(&vm, None, None)).await;
        assert_eq!(state, OpState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_does_not_wait_for_a_stop_that_hangs() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    host.hang_guests();
    let stop = engine.stop(&vm, Duration::from_secs(3600));
    until_phase(&engine, &vm, Phase::Stopping).await;
    let _ = end(&engine, engine.kill(&vm, KillSignal::Kill)).await;
    assert_eq!(end(&engine, stop).await, OpState::Succeeded);
    assert_eq!(engine.get(&vm).unwrap().phase, Phase::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_of_a_stopped_vm_change_and_stay() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = stopped(&engine).await;
    let state = end(&engine, engine.set(&vm, larger())).await;
    assert_eq!(state, OpState::Succeeded);
    engine.abort();
    let engine = open(&host, dir.path()).await;
    end(&engine, engine.start(&vm, None, None)).await;
    let expected = larger().apply(&VmSpec::FLOOR).unwrap();
    assert_eq!(host.real_spec(&vm), Some(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_lost_its_memory_is_told_again() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    let state = end(&engine, engine.set(&vm, with_nat(true))).await;
    assert_eq!(state, OpState::Succeeded);
    let told = host.tap(&vm);
    assert!(told.is_some_and(|(_, nat)| nat));
    let until_told = async || {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while host.tap(&vm) != told {
            assert!(std::time::Instant::now() < deadline, "it was not told");
            tokio::task::yield_now().await;
        }
    };
    // The same daemon goes on, and watches the VM already.
    host.lose_memory();
    engine.reconcile().await.unwrap();
    until_told().await;
    drop(engine);
    host.lose_memory();
    let _next = open(&host, dir.path()).await;
    until_told().await;
    assert!(host.lives(&vm));
}

#[tokio::test(flavor = "multi_thread")]
async fn nat_changes_while_the_vm_runs_and_stays() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    let nat = |vm: &VmId| host.real_spec(vm).map(|spec| spec.nat);
    for wanted in [true, true, false, true] {
        let state = end(&engine, engine.set(&vm, with_nat(wanted))).await;
        assert_eq!(state, OpState::Succeeded);
        assert_eq!(nat(&vm), Some(wanted));
        assert_eq!(host.asks_the_world("demo"), wanted);
    }
    end(&engine, engine.restart(&vm, GRACE, None, None)).await;
    assert_eq!(nat(&vm), Some(true));
    assert_eq!(host.launches(), 2, "the change itself started nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_changed_is_refused_and_nothing_is_touched() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    let before = host.real_spec(&vm);
    let change = |edit: fn(&mut SpecChange)| {
        let mut change = SpecChange::default();
        edit(&mut change);
        change
    };
    for invalid in [
        SpecChange::default(),
        change(|c| c.vcpu = Some(0)),
        change(|c| c.vcpu = Some(99)),
        change(|c| c.memory_mib = Some(MemoryMib(1))),
        change(|c| c.memory_mib = Some(MemoryMib(1 << 20))),
        change(|c| c.disk_size = Some(ByteSize::gib(1))),
        change(|c| c.disk_size = Some(ByteSize(u64::MAX))),
    ] {
        let failure = engine.set(&vm, invalid).unwrap_err();
        assert_eq!(failure.code, ErrorCode::InvalidArgument, "{invalid:?}");
    }
    let refused = fails(&engine, engine.set(&vm, larger())).await;
    assert_eq!(refused, ErrorCode::VmRunning);
    // A VM that failed, with a VMM that still runs on its disk.
    host.hang_guests();
    let short = Some(Duration::from_millis(30));
    let ready = Some(GuestState::Ready);
    fails(&engine, engine.restart(&vm, Duration::ZERO, ready, short)).await;
    until_phase(&engine, &vm, Phase::Failed).await;
    let refused = fails(&engine, engine.set(&vm, larger())).await;
    assert_eq!((refused, host.living()), (ErrorCode::VmRunning, 1));
    assert_eq!(host.real_spec(&vm), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_not_deleted_unseen() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    let refused = fails(&engine, engine.delete_stopped(&vm)).await;
    assert_eq!((refused, host.living()), (ErrorCode::VmRunning, 1));
    end(&engine, engine.stop(&vm, GRACE)).await;
    let state = end(&engine, engine.delete_stopped(&vm)).await;
    assert_eq!(state, OpState::Succeeded);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

/// After a reboot of the host no VM runs, whatever it did, and each can be started or deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_of_the_host_stops_each_vm_wherever_it_was() {
    // The calls of a create, of a restart and of a delete, and the host going down at each.
    for deed in ["create", "restart", "stop", "delete"] {
        for at in 0.. {
            let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
            let engine = open(&host, dir.path()).await;
            let vm = if deed == "create" {
                None
            } else {
                Some(running(&engine).await)
            };
            let mode = FailMode::CrashBefore;
            host.set_failpoint(Some(Failpoint { at, mode }));
            let begun = match (deed, &vm) {
                ("restart", Some(vm)) => engine.restart(vm, GRACE, None, None),
                ("stop", Some(vm)) => engine.stop(vm, GRACE),
                ("delete", Some(vm)) => engine.delete(vm),
                _ => engine.create(wanted(Some("demo"), true)).await,
            };
            let vm = begun.as_ref().unwrap().vm.clone().unwrap();
            tokio::select! {
                _ = end(&engine, begun) => {}
                () = host.crashed() => {}
            }
            let was_hit = host.calls() > at;
            host.set_failpoint(None);
            engine.abort();
            host.reboot();
            let engine = open(&host, dir.path()).await;
            let mut views = engine.watch_vm(&vm);
            if let Some(views) = &mut views {
                let settled = views.wait_for(|view| view.phase == Phase::Stopped);
                let settled = tokio::time::timeout(Duration::from_secs(20), settled).await;
                // A delete goes on to its end.
                let is_gone = settled.expect("it settles").is_err();
                assert_eq!(is_gone, deed == "delete" && was_hit, "{deed} {at}");
            }
            assert_eq!(host.living(), 0, "{deed} {at}: nothing runs by itself");
            if engine.get(&vm).is_some() {
                let state = end(&engine, engine.start(&vm, None, None)).await;
                assert_eq!(state, OpState::Succeeded, "{deed} {at}");
                end(&engine, engine.delete(&vm)).await;
            }
            assert_eq!(host.leftovers(), Vec::<String>::new(), "{deed} {at}");
            if !was_hit {
                assert!(at >= 3, "{deed} makes only {at} calls");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_left_by_a_vmm_of_the_last_boot_can_be_grown() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    engine.abort();
    host.reboot();
    let engine = open(&host, dir.path()).await;
    until_phase(&engine, &vm, Phase::Stopped).await;
    let state = end(&engine, engine.set(&vm, larger())).await;
    assert_eq!(state, OpState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_as_large_as_is_stored_also_when_the_daemon_died_while_it_grew() {
    for mode in [FailMode::CrashBefore, FailMode::CrashAfter] {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let vm = stopped(&engine).await;
        host.set_failpoint(Some(Failpoint { at: 0, mode }));
        engine.set(&vm, larger()).unwrap();
        host.crashed().await;
        engine.abort();
        drop(engine);
        host.set_failpoint(None);
        let engine = open(&host, dir.path()).await;
        let state = end(&engine, engine.start(&vm, None, None)).await;
        assert_eq!(state, OpState::Succeeded, "{mode:?}");
        let stored = engine.get(&vm).unwrap().spec;
        assert_eq!(host.real_spec(&vm), Some(stored), "{mode:?}");
        engine.abort();
    }
}
