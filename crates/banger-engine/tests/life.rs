//! A VM's life on the modelled host: as it should go, with every call failed once, and with the daemon
//! killed at every call.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use banger_core::{
    ByteSize, ErrorCode, KillSignal, MemoryMib, Phase, RootStorage, SpecChange, VmSpec, VmmKind,
};
use banger_engine::ports::{Failure, Farewell, GuestState, OwnDisk};
use banger_engine::{CreateVm, OpState};
use banger_testkit::{FailMode, Failpoint, FakeHost, Hang};
use common::{end, open, running, until_phase, wanted};

const GRACE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn create_stop_start_delete_leaves_nothing() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    assert_eq!(host.living(), 1);
    assert_eq!(
        end(&engine, engine.stop(&vm, GRACE)).await,
        OpState::Succeeded
    );
    assert_eq!(
        (engine.get(&vm).unwrap().phase, host.living()),
        (Phase::Stopped, 0)
    );
    assert_eq!(
        end(&engine, engine.start(&vm, None, None)).await,
        OpState::Succeeded
    );
    assert_eq!(end(&engine, engine.delete(&vm)).await, OpState::Succeeded);
    assert_eq!(host.leftovers(), Vec::<String>::new());
    assert!(engine.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_does_by_itself_is_followed() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    host.end_guest(&vm, Some(Farewell::Reboot));
    let mut views = engine.watch_vm(&vm).unwrap();
    let again = views.wait_for(|view| view.phase == Phase::Running && host.launches() == 2);
    tokio::time::timeout(Duration::from_secs(20), again)
        .await
        .expect("boots again")
        .unwrap();
    host.end_guest(&vm, Some(Farewell::Poweroff));
    until_phase(&engine, &vm, Phase::Stopped).await;
    assert_eq!(
        end(&engine, engine.start(&vm, None, None)).await,
        OpState::Succeeded
    );
    host.end_guest(&vm, None);
    until_phase(&engine, &vm, Phase::Failed).await;
    assert!(engine.get(&vm).unwrap().last_error.is_some());
    assert_eq!(
        end(&engine, engine.start(&vm, None, None)).await,
        OpState::Succeeded
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_hangs_as_it_boots_is_booted_again_while_it_is_waited_for() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    host.next_guests_hang(Hang::Said, 1);
    let vm = running(&engine).await;
    assert_eq!((host.launches(), host.living()), (2, 1));
    let stop = end(&engine, engine.stop(&vm, GRACE)).await;
    assert_eq!(stop, OpState::Succeeded);

    host.next_guests_hang(Hang::Said, u32::MAX);
    let ready = Some(GuestState::Ready);
    let start = end(&engine, engine.start(&vm, ready, None)).await;
    assert!(matches!(start, OpState::Failed(_)), "{start:?}");
    let view = engine.get(&vm).unwrap();
    let error = view.last_error.unwrap();
    assert_eq!(
        (view.phase, error.code),
        (Phase::Failed, ErrorCode::BootFailed)
    );
    let says = error.causes.join("\n");
    assert!(says.contains("soft lockup"), "{error:?}");
    assert_eq!(end(&engine, engine.delete(&vm)).await, OpState::Succeeded);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

/// In a time that passes as soon as nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn one_that_hangs_without_a_word_is_booted_again_once() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let created = async |hangs: u32| {
        host.next_guests_hang(Hang::Silent, hangs);
        let before = host.launches();
        let begun = tokio::time::Instant::now();
        let mut wish = wanted(None, true);
        wish.timeout = Some(Duration::from_secs(180));
        let operation = engine.create(wish).await.unwrap();
        let mut watch = engine.watch(&operation.id).unwrap();
        let ended = watch.wait_for(|view| view.state != OpState::Running);
        let state = ended.await.unwrap().state.clone();
        let took = begun.elapsed().as_secs();
        (state, host.launches() - before, took)
    };
    let (state, launches, took) = created(1).await;
    assert_eq!((state, launches), (OpState::Succeeded, 2));
    assert!((60..70).contains(&took), "{took} s");
    let (state, launches, _) = created(0).await;
    assert_eq!((state, launches), (OpState::Succeeded, 1));

    let (state, launches, _) = created(u32::MAX).await;
    let OpState::Failed(failure) = state else {
        panic!("{state:?}");
    };
    assert_eq!((failure.code, launches), (ErrorCode::BootFailed, 2));
    assert!(failure.message.contains("not reachable"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_gone_is_told_and_not_replaced_by_an_empty_one() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    for disk in [OwnDisk::Root(RootStorage::Qcow2), OwnDisk::Work] {
        let vm = running(&engine).await;
        let stop = end(&engine, engine.stop(&vm, GRACE)).await;
        assert_eq!(stop, OpState::Succeeded);
        let disks = host.disks(&vm);
        host.set_disk(&vm, disk, false);
        for _ in 0..2 {
            let start = end(&engine, engine.start(&vm, None, None)).await;
            let OpState::Failed(failure) = start else {
                panic!("{disk:?}: {start:?}");
            };
            assert_eq!(failure.code, ErrorCode::DiskLost, "{failure:?}");
            assert_eq!(
                (host.living(), engine.get(&vm).unwrap().phase),
                (0, Phase::Failed)
            );
        }
        host.set_disk(&vm, disk, true);
        let start = end(&engine, engine.start(&vm, None, None)).await;
        assert_eq!((start, host.disks(&vm)), (OpState::Succeeded, disks));
        assert_eq!(end(&engine, engine.delete(&vm)).await, OpState::Succeeded);
    }
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_is_adopted_and_after_a_reboot_of_the_host_it_is_stopped() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    engine.abort();
    let engine = open(&host, dir.path()).await;
    until_phase(&engine, &vm, Phase::Running).await;
    assert_eq!(host.launches(), 1);
    // Watched again: its end is noticed.
    host.end_guest(&vm, Some(Farewell::Poweroff));
    until_phase(&engine, &vm, Phase::Stopped).await;
    assert_eq!(
        end(&engine, engine.start(&vm, None, None)).await,
        OpState::Succeeded
    );
    engine.abort();
    host.reboot();
    let engine = open(&host, dir.path()).await;
    until_phase(&engine, &vm, Phase::Stopped).await;
    assert_eq!(
        end(&engine, engine.start(&vm, None, None)).await,
        OpState::Succeeded
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_references() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    for name in ["demo", "dev"] {
        let made = engine.create(wanted(Some(name), false)).await;
        assert_eq!(end(&engine, made).await, OpState::Succeeded);
    }
    let code =
        |result: Result<_, Failure>| result.map(|_: banger_engine::VmView| ()).unwrap_err().code;
    assert_eq!(
        engine
            .create(wanted(Some("demo"), false))
            .await
            .unwrap_err()
            .code,
        ErrorCode::NameTaken
    );
    assert_eq!(engine.resolve("dem").unwrap().name.as_str(), "demo");
    assert_eq!(code(engine.resolve("de")), ErrorCode::Ambiguous);
    assert_eq!(code(engine.resolve("")), ErrorCode::VmNotFound);
    let unknown = engine.resolve("dmeo").unwrap_err();
    assert!(unknown.hints[0].contains("demo"), "{unknown:?}");
    let huge = CreateVm {
        spec: VmSpec {
            vcpu: 99,
            ..VmSpec::FLOOR
        },
        ..wanted(None, false)
    };
    assert_eq!(
        engine.create(huge).await.unwrap_err().code,
        ErrorCode::InvalidArgument
    );
    assert_eq!(engine.list().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_create_leaves_nothing() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let operation = engine.create(wanted(None, true)).await.unwrap();
    let deleted = engine.cancel(&operation.id);
    assert_eq!(end(&engine, deleted).await, OpState::Succeeded);
    assert_ne!(end(&engine, Ok(operation)).await, OpState::Running);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_vms_at_once() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let mut begun = Vec::new();
    for _ in 0..50 {
        begun.push(engine.create(wanted(None, true)).await);
    }
    let mut vms = Vec::new();
    for operation in begun {
        vms.push(operation.as_ref().unwrap().vm.clone().unwrap());
        assert_eq!(end(&engine, operation).await, OpState::Succeeded);
    }
    assert_eq!(host.living(), 50);
    for vm in &vms {
        assert_eq!(end(&engine, engine.delete(vm)).await, OpState::Succeeded);
    }
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

/// What is done while the failpoint is armed.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Create,
    Start,
    Stop,
    Restart,
    Kill,
    Terminate,
    Grow,
    Nat,
    Delete,
}

/// A VM in that VMM, on a disk that it can use.
fn wanted_in(vmm: VmmKind) -> CreateVm {
    let spec = VmSpec {
        vmm,
        storage: RootStorage::Copy,
        ..VmSpec::FLOOR
    };
    CreateVm {
        spec,
        ..wanted(Some("demo"), true)
    }
}

/// Does the deed with one call failing. False: the deed has no such call.
async fn fail_once(deed: Deed, vmm: VmmKind, failpoint: Failpoint) -> bool {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let request = wanted_in(vmm);
    let running = async || {
        let operation = engine.create(request.clone()).await;
        let vm = operation.as_ref().unwrap().vm.clone().unwrap();
        assert_eq!(end(&engine, operation).await, OpState::Succeeded);
        vm
    };
    let vm = match deed {
        Deed::Create => None,
        Deed::Stop | Deed::Restart | Deed::Kill | Deed::Terminate | Deed::Nat | Deed::Delete => {
            Some(running().await)
        }
        Deed::Start | Deed::Grow => {
            let vm = running().await;
            end(&engine, engine.stop(&vm, GRACE)).await;
            Some(vm)
        }
    };
    let grow = SpecChange {
        memory_mib: Some(MemoryMib(2048)),
        disk_size: Some(ByteSize::gib(16)),
        ..SpecChange::default()
    };
    let nat = SpecChange {
        nat: Some(true),
        ..SpecChange::default()
    };
    host.set_failpoint(Some(failpoint));
    let operation = match (deed, &vm) {
        (Deed::Create, _) => engine.create(request.clone()).await,
        (Deed::Start, Some(vm)) => engine.start(vm, None, None),
        (Deed::Stop, Some(vm)) => engine.stop(vm, Duration::from_millis(50)),
        (Deed::Restart, Some(vm)) => engine.restart(vm, Duration::from_millis(50), None, None),
        (Deed::Kill, Some(vm)) => engine.kill(vm, KillSignal::Kill),
        (Deed::Terminate, Some(vm)) => engine.kill(vm, KillSignal::Term),
        (Deed::Grow, Some(vm)) => engine.set(vm, grow),
        (Deed::Nat, Some(vm)) => engine.set(vm, nat),
        (Deed::Delete, Some(vm)) => engine.delete(vm),
        (_, None) => unreachable!("made above"),
    };
    let vm = operation.as_ref().unwrap().vm.clone().unwrap();
    tokio::select! {
        _ = end(&engine, operation) => {}
        () = host.crashed() => {}
    }
    let was_hit = host.calls() > failpoint.at;
    host.set_failpoint(None);
    // A daemon that only saw an error goes on; a dead one is followed by another.
    let engine = if failpoint.mode.is_crash() {
        engine.abort();
        open(&host, dir.path()).await
    } else {
        engine
    };
    if let Some(view) = engine.get(&vm)
        && !matches!(view.phase, Phase::Deleting)
        && !matches!(deed, Deed::Delete)
    {
        let state = end(&engine, engine.start(&vm, Some(GuestState::Ready), None)).await;
        assert_eq!(state, OpState::Succeeded, "{deed:?} {failpoint:?}");
        assert_eq!(host.living(), 1, "{deed:?} {failpoint:?}");
        // What is shown is what is there; a disk may have grown before the daemon's death.
        let (shown, real) = (engine.get(&vm).unwrap().spec, host.real_spec(&vm).unwrap());
        assert!(shown.disk_size <= real.disk_size, "{deed:?} {failpoint:?}");
        let disk_size = real.disk_size;
        let shown = VmSpec { disk_size, ..shown };
        assert_eq!(shown, real, "{deed:?} {failpoint:?}");
    }
    if let Ok(operation) = engine.delete(&vm) {
        let state = end(&engine, Ok(operation)).await;
        let gone =
            matches!(&state, OpState::Failed(failure) if failure.code == ErrorCode::VmNotFound);
        assert!(
            state == OpState::Succeeded || gone,
            "{deed:?} {failpoint:?} {state:?}"
        );
    }
    assert_eq!(
        host.leftovers(),
        Vec::<String>::new(),
        "{deed:?} {failpoint:?}"
    );
    assert!(engine.list().is_empty(), "{deed:?} {failpoint:?}");
    was_hit
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_every_deed_may_fail_or_be_the_daemons_last() {
    for vmm in VmmKind::ALL {
        for (deed, least) in [
            (Deed::Create, 8),
            (Deed::Start, 3),
            (Deed::Stop, 3),
            (Deed::Restart, 6),
            (Deed::Kill, 3),
            (Deed::Terminate, 3),
            (Deed::Grow, 1),
            (Deed::Nat, 1),
            (Deed::Delete, 3),
        ] {
            for mode in FailMode::ALL {
                let mut at = 0;
                while fail_once(deed, vmm, Failpoint { at, mode }).await {
                    at += 1;
                }
                assert!(at >= least, "{deed:?} makes only {at} calls");
            }
        }
    }
}
