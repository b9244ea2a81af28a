//! A work disk of the client's: made before the VM is stored, taken by it, and gone when that does not come to be.

mod common;

use std::time::Duration;

use banger_core::{ByteSize, ErrorCode, Phase, VmId};
use banger_engine::{CreateVm, OpState};
use banger_testkit::{FailMode, Failpoint, FakeHost};
use common::{end, open, until_phase, wanted};

fn planted(start: bool) -> CreateVm {
    CreateVm {
        work_seed: Some("/home/ann/.cache/banger/staging/work.ext4".into()),
        ..wanted(Some("demo"), start)
    }
}

/// Waits until nothing is left: what is removed in the background is not waited for by anybody.
async fn until_clean(host: &FakeHost, known: &[VmId]) {
    let mut changes = host.changes();
    let clean = changes.wait_for(|_| host.leftovers_but_for(known).is_empty());
    let clean = tokio::time::timeout(Duration::from_secs(20), clean).await;
    assert!(clean.is_ok(), "{:?}", host.leftovers_but_for(known));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vm_takes_it_and_leaves_nothing() {
    for start in [true, false] {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let operation = engine.create(planted(start)).await;
        let vm = operation.as_ref().unwrap().vm.clone().unwrap();
        assert_eq!(end(&engine, operation).await, OpState::Succeeded);
        assert!(host.is_planted(&vm));
        let other = engine.create(wanted(Some("other"), start)).await;
        let of_image = other.as_ref().unwrap().vm.clone().unwrap();
        assert_eq!(end(&engine, other).await, OpState::Succeeded);
        assert!(!host.is_planted(&of_image));
        for vm in [vm, of_image] {
            assert_eq!(end(&engine, engine.delete(&vm)).await, OpState::Succeeded);
        }
        assert_eq!(host.leftovers(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_leaves_none() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let operation = engine.create(wanted(Some("demo"), false)).await;
    let vm = operation.as_ref().unwrap().vm.clone().unwrap();
    assert_eq!(end(&engine, operation).await, OpState::Succeeded);
    host.set_failpoint(None);
    let taken = engine.create(planted(true)).await.unwrap_err();
    assert_eq!(taken.code, ErrorCode::NameTaken);
    assert_eq!(host.calls(), 0, "no disk is made for a name that is taken");
    for mode in [FailMode::Error, FailMode::DiskFull] {
        host.set_failpoint(Some(Failpoint { at: 0, mode }));
        let request = CreateVm {
            name: None,
            ..planted(true)
        };
        engine.create(request).await.unwrap_err();
        host.set_failpoint(None);
        until_clean(&host, std::slice::from_ref(&vm)).await;
        assert_eq!(engine.list().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_nobody_waits_for_any_more_leaves_none() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    host.set_failpoint(Some(Failpoint {
        at: 0,
        mode: FailMode::CrashAfter,
    }));
    let creating = tokio::spawn({
        let engine = engine.clone();
        async move { engine.create(planted(true)).await }
    });
    host.crashed().await;
    host.set_failpoint(None);
    assert_eq!(host.leftovers().len(), 1);
    creating.abort();
    until_clean(&host, &[]).await;
    assert!(engine.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_goes_on_with_it_or_removes_it() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    // Of a daemon that died before the VM was stored.
    let drives = host.ports().drives;
    let nobody: VmId = "0123456789ab".parse().unwrap();
    let size = ByteSize::gib(1);
    drives
        .plant_work_disk(&nobody, "/seed".as_ref(), size)
        .await
        .unwrap();
    assert_eq!(host.leftovers().len(), 1);
    let engine = open(&host, dir.path()).await;
    assert_eq!(host.leftovers(), Vec::<String>::new());

    // Of one that died right after.
    host.set_failpoint(Some(Failpoint {
        at: 1,
        mode: FailMode::CrashBefore,
    }));
    let made = engine.create(planted(true)).await.unwrap();
    let vm = made.vm.unwrap();
    host.crashed().await;
    host.set_failpoint(None);
    engine.abort();
    let engine = open(&host, dir.path()).await;
    until_phase(&engine, &vm, Phase::Running).await;
    assert!(host.is_planted(&vm));
    assert_eq!(end(&engine, engine.delete(&vm)).await, OpState::Succeeded);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_create_fails_a_delete_leaves_nothing() {
    let mut at = 1;
    loop {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let mode = FailMode::Error;
        host.set_failpoint(Some(Failpoint { at, mode }));
        let made = engine.create(planted(true)).await.unwrap();
        let vm = made.vm.clone().unwrap();
        let ended = end(&engine, Ok(made)).await;
        let calls = host.calls();
        host.set_failpoint(None);
        assert_eq!(end(&engine, engine.delete(&vm)).await, OpState::Succeeded);
        assert_eq!(host.leftovers(), Vec::<String>::new(), "{at}");
        if calls <= at {
            assert_eq!(ended, OpState::Succeeded);
            break;
        }
        at += 1;
    }
    assert!(at > 4, "a create makes more than {at} calls");
}
