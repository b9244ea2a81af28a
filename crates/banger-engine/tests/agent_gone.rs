//! Every verb on a VM whose agent somebody in the guest has killed: its VMM runs, it was ready, and nobody answers any
//! more. What needs the agent itself is tested where the daemon dials it (`bangerd/src/routes/connect.rs`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use banger_core::{ErrorCode, KillSignal, MemoryMib, Phase, SpecChange, Verb, VmId};
use banger_engine::ports::GuestState;
use banger_engine::{Engine, OpState, OperationView, StageStatus};
use banger_testkit::FakeHost;
use common::{end, open, running, wanted};

/// How long a guest may take for its shutdown.
const GRACE: Duration = Duration::from_millis(200);
/// No verb takes longer.
const BOUND: Duration = Duration::from_secs(4);

fn code(state: &OpState) -> Option<ErrorCode> {
    match state {
        OpState::Failed(failure) => Some(failure.code),
        _ => None,
    }
}

/// Whether the guest was asked to shut down and was ended by force.
fn was_forced(view: &OperationView) -> bool {
    let forced = |stage: &banger_engine::StageView| {
        stage.key == "shutdown" && stage.status == StageStatus::Failed
    };
    view.stages.iter().any(forced)
}

/// What becomes of the verb, in time; and its operation, where it has one.
async fn ask(engine: &Engine, vm: &VmId, verb: Verb) -> (Option<ErrorCode>, Option<OperationView>) {
    let ready = Some(GuestState::Ready);
    let nat = SpecChange {
        nat: Some(true),
        ..SpecChange::default()
    };
    let sizes = SpecChange {
        memory_mib: Some(MemoryMib(2048)),
        ..SpecChange::default()
    };
    let begun = match verb {
        Verb::Look => {
            assert_eq!(engine.get(vm).unwrap().phase, Phase::Running);
            return (None, None);
        }
        Verb::UseGuest => {
            let waited = engine.wait_guest(vm, GuestState::Ready, BOUND).await;
            return (waited.err().map(|failure| failure.code), None);
        }
        Verb::CreateNamesake => {
            let taken = engine.create(wanted(Some("demo"), true)).await;
            return (Some(taken.unwrap_err().code), None);
        }
        Verb::Start => engine.start(vm, ready, None),
        Verb::Stop => engine.stop(vm, GRACE),
        Verb::Restart => engine.restart(vm, GRACE, ready, None),
        Verb::Kill => engine.kill(vm, KillSignal::Kill),
        Verb::SetNat => engine.set(vm, nat),
        Verb::SetSizes => engine.set(vm, sizes),
        Verb::Delete => engine.delete(vm),
        Verb::Prune => engine.delete_stopped(vm),
    };
    let id = begun.as_ref().unwrap().id.clone();
    let state = end(engine, begun).await;
    (code(&state), Some(engine.operation(&id).await.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_answers_in_time() {
    for verb in Verb::ALL {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let vm = running(&engine).await;
        host.kill_agent(&vm);
        let begun = Instant::now();
        let (code, operation) = ask(&engine, &vm, verb).await;
        let took = begun.elapsed();
        assert!(took < BOUND, "{verb:?} took {took:?}");
        let refused = match verb {
            Verb::SetSizes | Verb::Prune => Some(ErrorCode::VmRunning),
            Verb::CreateNamesake => Some(ErrorCode::NameTaken),
            // The engine lets through what is to be dialled; an agent that is gone is told there.
            _ => None,
        };
        assert_eq!(code, refused, "{verb:?}");
        let after = engine.get(&vm).map(|view| (view.phase, view.readiness));
        let (ready, forced) = (
            Some(GuestState::Ready),
            matches!(verb, Verb::Stop | Verb::Restart),
        );
        let expected = match verb {
            Verb::Stop | Verb::Kill => Some((Phase::Stopped, None)),
            Verb::Delete => None,
            _ => Some((Phase::Running, ready)),
        };
        assert_eq!(after, expected, "{verb:?}");
        assert_eq!(
            operation.as_ref().is_some_and(was_forced),
            forced,
            "{verb:?}"
        );
        assert!(!forced || took >= GRACE, "{verb:?} gave the guest no time");
        // Only a restart boots; a start of it has nothing to do.
        let launches = if verb == Verb::Restart { 2 } else { 1 };
        assert_eq!(host.launches(), launches, "{verb:?}");
        assert_eq!(host.shutdowns(), 0, "{verb:?}");
    }
}

/// The next daemon does not know that it ever answered: it is waited for as long as a boot may take.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_waits_for_it_no_longer_than_for_a_boot() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    host.kill_agent(&vm);
    engine.abort();
    let engine = open(&host, dir.path()).await;
    let used = engine.wait_guest(&vm, GuestState::Reachable, GRACE).await;
    assert_eq!(used.unwrap_err().code, ErrorCode::Timeout);
    assert_eq!(engine.get(&vm).unwrap().phase, Phase::Running);
    let stop = end(&engine, engine.stop(&vm, GRACE)).await;
    assert_eq!(stop, OpState::Succeeded);
    let start = end(&engine, engine.start(&vm, Some(GuestState::Ready), None)).await;
    assert_eq!(start, OpState::Succeeded, "the next boot brings it back");
}
