//! Operations: their stages, what a later daemon knows of them, and how a create fails.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::time::Duration;

use banger_core::{ErrorCode, OpId, Phase};
use banger_engine::ports::{Failure, Farewell, GuestState, Progress};
use banger_engine::{AtWork, CreateVm, Engine, OpKind, OpState, OperationView, StageStatus};
use banger_testkit::{FailMode, Failpoint, FakeHost};
use common::{end, open, running, until_phase, wanted};

fn keys(view: &OperationView) -> Vec<&str> {
    view.stages.iter().map(|stage| stage.key.as_str()).collect()
}

async fn until_stages(engine: &Engine, id: &OpId, count: usize) {
    let mut watch = engine.watch(id).unwrap();
    let there = watch.wait_for(|view| view.stages.len() >= count);
    tokio::time::timeout(Duration::from_secs(20), there)
        .await
        .expect("it gets there")
        .unwrap();
}

/// What is going on is stored beside the work, which gives that a moment of its own.
async fn until_stored(dir: &Path, id: &OpId) {
    let store = banger_store::Store::open(&dir.join("banger.db")).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while store.operation(id).unwrap().is_none() {
        assert!(tokio::time::Instant::now() < deadline, "never stored");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operation_that_works_on_a_vm_is_known_also_to_the_next_daemon() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let mode = FailMode::Hold;
    host.set_failpoint(Some(Failpoint { at: 0, mode }));
    let made = engine.create(wanted(Some("demo"), true)).await.unwrap();
    let vm = made.vm.clone().unwrap();
    let (id, kind) = (made.id.clone(), OpKind::CreateVm);
    let create = Some(AtWork { id, kind });
    let at_work = |engine: &Engine| engine.at_work().remove(&vm);
    assert_eq!(at_work(&engine), create, "at once");
    host.held().await;
    // It waits for its turn, and does not work yet.
    engine.start(&vm, None, None).unwrap();
    assert_eq!(at_work(&engine), create);
    until_stored(dir.path(), &made.id).await;
    engine.abort();
    host.set_failpoint(None);
    host.hang_guests();
    let engine = open(&host, dir.path()).await;
    until_phase(&engine, &vm, Phase::Running).await;
    assert_eq!(at_work(&engine), create, "after the daemon's death");
    host.heal_guests();
    assert_eq!(end(&engine, Ok(made)).await, OpState::Succeeded);
    assert_eq!(at_work(&engine), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_tells_of_the_create_that_goes_on_also_when_both_come_at_once() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let mode = FailMode::Hold;
    host.set_failpoint(Some(Failpoint { at: 0, mode }));
    let creates: Vec<_> = (0..20)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.create(wanted(Some("demo"), true)).await })
        })
        .collect();
    let (mut made, mut refused) = (vec![], vec![]);
    for create in creates {
        match create.await.unwrap() {
            Ok(operation) => made.push(operation),
            Err(failure) => refused.push(failure),
        }
    }
    assert_eq!((made.len(), refused.len()), (1, 19));
    let made = made.remove(0);
    for failure in refused {
        assert_eq!(failure.code, ErrorCode::NameTaken);
        assert_eq!(failure.operation.as_ref(), Some(&made.id), "{failure:?}");
        assert!(
            failure.message.contains("still being created"),
            "{failure:?}"
        );
        assert!(failure.hints[0].contains("vm start demo"), "{failure:?}");
    }
    host.held().await;
    host.release();
    assert_eq!(end(&engine, Ok(made)).await, OpState::Succeeded);
    let taken = engine.create(wanted(Some("demo"), true)).await.unwrap_err();
    assert_eq!(
        (taken.code, &taken.operation),
        (ErrorCode::NameTaken, &None)
    );
    assert!(taken.message.contains("is running"), "{taken:?}");

    // One that is not to be started is not started by whoever follows it.
    host.set_failpoint(Some(Failpoint { at: 0, mode }));
    let made = engine.create(wanted(Some("other"), false)).await.unwrap();
    host.held().await;
    let taken = engine
        .create(wanted(Some("other"), true))
        .await
        .unwrap_err();
    assert_eq!(taken.operation.as_ref(), Some(&made.id));
    assert!(taken.hints[0].contains("vm show other"), "{taken:?}");
    host.release();
    assert_eq!(end(&engine, Ok(made)).await, OpState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_operation_is_told_again_by_the_next_daemon() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let made = engine.create(wanted(Some("demo"), true)).await.unwrap();
    end(&engine, Ok(made.clone())).await;
    let before = engine.operation(&made.id).await.unwrap();
    // Its end is stored a moment after it is seen.
    let vm = made.vm.unwrap();
    end(&engine, engine.stop(&vm, Duration::ZERO)).await;
    engine.abort();
    let engine = open(&host, dir.path()).await;
    assert!(engine.watch(&made.id).is_none());
    let after = engine.operation(&made.id).await.unwrap();
    assert_eq!(after.state, OpState::Succeeded);
    assert_eq!(keys(&after), keys(&before));
    assert!(keys(&after).contains(&"boot") && keys(&after).contains(&"ready"));
    let times = |view: &OperationView| -> Vec<Option<u64>> {
        view.stages.iter().map(|stage| stage.took_ms).collect()
    };
    assert_eq!(times(&after), times(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_goes_on_under_its_own_id_after_the_daemons_death() {
    for at in 0..9 {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let mode = FailMode::CrashBefore;
        host.set_failpoint(Some(Failpoint { at, mode }));
        let made = engine.create(wanted(Some("demo"), true)).await.unwrap();
        host.crashed().await;
        host.set_failpoint(None);
        until_stored(dir.path(), &made.id).await;
        engine.abort();
        let engine = open(&host, dir.path()).await;
        let state = end(&engine, engine.operation(&made.id).await).await;
        assert_eq!(state, OpState::Succeeded, "{at}");
        let view = engine.operation(&made.id).await.unwrap();
        assert_eq!((view.kind, &view.vm), (OpKind::CreateVm, &made.vm));
        assert!(keys(&view).contains(&"agent"), "{at}: {:?}", keys(&view));
        assert!(keys(&view).contains(&"ready"), "{at}: {:?}", keys(&view));
        assert_eq!(host.living(), 1);
        until_phase(&engine, &made.vm.unwrap(), Phase::Running).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_goes_on_waits_as_far_and_as_long_as_it_was_asked_to() {
    for at in [2, 6] {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let mode = FailMode::CrashBefore;
        host.set_failpoint(Some(Failpoint { at, mode }));
        let request = CreateVm {
            wait: Some(GuestState::Ready),
            timeout: Some(Duration::from_millis(30)),
            ..wanted(Some("demo"), true)
        };
        let made = engine.create(request).await.unwrap();
        host.crashed().await;
        host.set_failpoint(None);
        until_stored(dir.path(), &made.id).await;
        engine.abort();
        host.hang_guests();
        let engine = open(&host, dir.path()).await;
        let OpState::Failed(failure) = end(&engine, engine.operation(&made.id).await).await else {
            panic!("{at}: a guest that hangs was waited for");
        };
        assert!(failure.message.contains("30ms"), "{at}: {failure:?}");
        host.heal_guests();
        let vm = made.vm.unwrap();
        let start = engine.start(&vm, Some(GuestState::Ready), None);
        assert_eq!(end(&engine, start).await, OpState::Succeeded, "{at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_on_has_ended_with_its_daemon() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let build = engine.run_task(
        OpKind::BuildImage,
        "debian-bookworm",
        |context| async move {
            context.begin("image", "building");
            context.part("unpacking");
            std::future::pending::<Result<(), Failure>>().await
        },
    );
    until_stages(&engine, &build.id, 2).await;
    // A store of its own, to see when both stages are kept.
    let store = banger_store::Store::open(&dir.path().join("banger.db")).unwrap();
    let kept = || {
        let row = store.operation(&build.id).unwrap();
        row.is_some_and(|row| row.view.contains("unpacking"))
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !kept() {
        assert!(tokio::time::Instant::now() < deadline, "never stored");
        tokio::task::yield_now().await;
    }
    engine.abort();
    let engine = open(&host, dir.path()).await;
    let view = engine.operation(&build.id).await.unwrap();
    let OpState::Failed(failure) = &view.state else {
        panic!("{view:?}")
    };
    assert_eq!(failure.code, ErrorCode::DaemonUnavailable);
    assert!(!failure.hints.is_empty());
    assert_eq!(keys(&view), ["image", "image.unpacking"]);
    assert!(
        view.stages
            .iter()
            .all(|stage| stage.status == StageStatus::Failed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_stage_are_stages_with_their_own_lines() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let task = engine.run_task(OpKind::BuildImage, "x", |context| async move {
        context.begin("image", "building x");
        context.line("before");
        context.part("unpacking");
        context.line("first");
        context.part("formatting");
        context.line("second");
        context.end("image", false);
        Err(Failure::new(ErrorCode::ImageBuildFailed, "no"))
    });
    end(&engine, Ok(task.clone())).await;
    let stages = engine.operation(&task.id).await.unwrap().stages;
    let told: Vec<_> = stages
        .iter()
        .map(|stage| (stage.title.as_str(), stage.status, stage.detail.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            ("building x", StageStatus::Failed, Some("before")),
            ("unpacking", StageStatus::Done, Some("first")),
            ("formatting", StageStatus::Failed, Some("second")),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_on_a_full_file_system_leaves_nothing() {
    for at in 0.. {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let mode = FailMode::DiskFull;
        host.set_failpoint(Some(Failpoint { at, mode }));
        let made = engine.create(wanted(Some("demo"), true)).await;
        let state = end(&engine, made).await;
        if host.calls() <= at {
            assert!(at >= 8, "a create makes only {at} calls");
            return;
        }
        host.set_failpoint(None);
        let OpState::Failed(failure) = state else {
            panic!("{at}: {state:?}")
        };
        assert_eq!(failure.code, ErrorCode::DiskFull, "{at}");
        assert_eq!(host.leftovers(), Vec::<String>::new(), "{at}");
        assert!(engine.list().is_empty(), "{at}");
        // The name is free again.
        running(&engine).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_hangs_is_a_failure_that_names_the_stage_and_what_it_said_last() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    host.hang_guests();
    let request = CreateVm {
        timeout: Some(Duration::from_millis(30)),
        wait: Some(GuestState::Ready),
        ..wanted(Some("demo"), true)
    };
    let made = engine.create(request).await.unwrap();
    let state = end(&engine, Ok(made.clone())).await;
    let OpState::Failed(failure) = state else {
        panic!("{state:?}")
    };
    assert_eq!(failure.code, ErrorCode::BootFailed);
    assert!(failure.message.contains("guest agent"), "{failure:?}");
    assert!(failure.causes[0].contains("booted by"), "{failure:?}");
    // Kept for inspection, and deleted like any other.
    let vm = made.vm.unwrap();
    until_phase(&engine, &vm, Phase::Failed).await;
    assert_eq!(engine.get(&vm).unwrap().last_error.unwrap(), failure);
    assert_eq!(end(&engine, engine.delete(&vm)).await, OpState::Succeeded);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ends_as_it_boots_is_a_failure_that_names_the_stage_and_what_it_said_last() {
    for (farewell, phase) in [
        (None, Phase::Failed),
        (Some(Farewell::Poweroff), Phase::Stopped),
    ] {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        host.hang_guests();
        let made = engine.create(wanted(Some("demo"), true)).await.unwrap();
        let vm = made.vm.clone().unwrap();
        until_phase(&engine, &vm, Phase::Running).await;
        host.end_guest(&vm, farewell);
        let OpState::Failed(failure) = end(&engine, Ok(made)).await else {
            panic!("{farewell:?}: it was made");
        };
        assert_eq!(failure.code, ErrorCode::BootFailed, "{failure:?}");
        assert!(failure.message.contains("`guest agent`"), "{failure:?}");
        let said = failure.causes.join("\n");
        assert!(said.contains("booted by"), "{failure:?}");
        // A VMM that ends by itself says why in its log, if anywhere.
        let of_vmm = said.contains("the VMM's log ends with: the model's VMM ended");
        assert_eq!(of_vmm, farewell.is_none(), "{failure:?}");
        assert!(!failure.hints.is_empty(), "{failure:?}");
        until_phase(&engine, &vm, phase).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_only_reboots_is_told_as_such() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    host.hang_guests();
    let made = engine.create(wanted(Some("demo"), true)).await.unwrap();
    let vm = made.vm.clone().unwrap();
    for launches in 1..=6 {
        let mut views = engine.watch_vm(&vm).unwrap();
        let up = views.wait_for(|view| view.phase == Phase::Running && host.launches() == launches);
        let up = tokio::time::timeout(Duration::from_secs(20), up).await;
        up.expect("boots again").unwrap();
        host.end_guest(&vm, Some(Farewell::Reboot));
    }
    let OpState::Failed(failure) = end(&engine, Ok(made)).await else {
        panic!("it was made");
    };
    assert!(failure.message.contains("rebooted"), "{failure:?}");
    until_phase(&engine, &vm, Phase::Failed).await;
}
