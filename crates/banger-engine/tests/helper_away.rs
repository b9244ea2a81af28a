//! A guest that ends while the helper is away: nobody asked for it, so nobody would do it again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use banger_core::{ErrorCode, Phase, VmId};
use banger_engine::ports::Farewell;
use banger_engine::{Engine, EngineConfig, OpState};
use banger_testkit::{FailMode, Failpoint, FakeHost};
use common::{config, end, open, open_as, running, until_phase};

/// Until the engine waits for the helper, or does no more.
async fn until_wanted(engine: &Engine, wanted: bool) {
    let waits = async {
        while engine.wants_helper() != wanted {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waits).await;
    waited.unwrap_or_else(|_| panic!("the helper is not wanted: {wanted}"));
}

async fn until_booted(engine: &Engine, host: &FakeHost, vm: &VmId, launches: u32) {
    let mut views = engine.watch_vm(vm).unwrap();
    let again = views.wait_for(|view| view.phase == Phase::Running && host.launches() == launches);
    let again = tokio::time::timeout(Duration::from_secs(20), again).await;
    again.expect("boots again").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_and_a_poweroff_are_followed_when_the_helper_is_back() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    assert!(!engine.wants_helper());

    host.watched(&vm).await;
    host.set_helper(false);
    host.end_guest(&vm, Some(Farewell::Reboot));
    until_wanted(&engine, true).await;
    assert_eq!(engine.get(&vm).unwrap().phase, Phase::Stopping);
    host.set_helper(true);
    until_booted(&engine, &host, &vm, 2).await;
    until_wanted(&engine, false).await;

    host.watched(&vm).await;
    host.set_helper(false);
    host.end_guest(&vm, Some(Farewell::Poweroff));
    until_wanted(&engine, true).await;
    host.set_helper(true);
    until_phase(&engine, &vm, Phase::Stopped).await;
    assert_eq!(host.running_parts(&vm), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_helper_may_die_at_every_call_of_a_reboot() {
    let mut at = 0;
    loop {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let vm = running(&engine).await;
        host.watched(&vm).await;
        let mode = FailMode::Hold;
        host.set_failpoint(Some(Failpoint { at, mode }));
        host.end_guest(&vm, Some(Farewell::Reboot));
        tokio::select! {
            () = host.held() => {}
            () = until_booted(&engine, &host, &vm, 2) => break,
        }
        host.set_helper(false);
        host.release();
        // What was the last that needed it is done.
        tokio::select! {
            () = until_wanted(&engine, true) => {}
            () = until_booted(&engine, &host, &vm, 2) => {}
        }
        host.set_failpoint(None);
        host.set_helper(true);
        until_phase(&engine, &vm, Phase::Running).await;
        assert_eq!(host.living(), 1, "call {at}");
        assert!(host.launches() >= 2, "call {at}");
        at += 1;
    }
    assert!(at >= 5, "a reboot makes only {at} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_come_back_is_the_reason_of_a_failure() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let hasty = EngineConfig {
        helper_patience: Duration::ZERO,
        ..config()
    };
    let engine = open_as(&host, dir.path(), hasty).await;
    engine.reconcile().await.unwrap();
    let vm = running(&engine).await;
    host.watched(&vm).await;
    host.set_helper(false);
    host.end_guest(&vm, Some(Farewell::Reboot));
    until_phase(&engine, &vm, Phase::Failed).await;
    let error = engine.get(&vm).unwrap().last_error.unwrap();
    assert_eq!(error.code, ErrorCode::HelperUnavailable, "{error:?}");
    assert!(!engine.wants_helper());
    host.set_helper(true);
    let start = end(&engine, engine.start(&vm, None, None)).await;
    assert_eq!(start, OpState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_does_not_wait_behind_it() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    host.watched(&vm).await;
    host.set_helper(false);
    host.end_guest(&vm, Some(Farewell::Reboot));
    until_wanted(&engine, true).await;
    let OpState::Failed(failure) = end(&engine, engine.delete(&vm)).await else {
        panic!("deleted without a helper");
    };
    assert_eq!(failure.code, ErrorCode::HelperUnavailable);
    host.set_helper(true);
    assert_eq!(end(&engine, engine.delete(&vm)).await, OpState::Succeeded);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_end_nobody_sees_wants_it_too() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    host.set_helper(false);
    // After each request it is watched anew.
    let start = end(&engine, engine.start(&vm, None, None)).await;
    assert_eq!(start, OpState::Succeeded);
    until_wanted(&engine, true).await;
    host.end_guest(&vm, Some(Farewell::Poweroff));
    host.set_helper(true);
    until_phase(&engine, &vm, Phase::Stopped).await;
    assert!(!engine.wants_helper());
}
