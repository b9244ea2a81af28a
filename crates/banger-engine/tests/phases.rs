//! Every row of `docs/phases.md` on the modelled host: each verb in each situation, and the answer that the
//! domain promises. What is refused, or is so already, touches nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use banger_core::{
    Answer, ByteSize, ErrorCode, KillSignal, MemoryMib, Phase, Situation, SpecChange, Turn, Verb,
    VmId, VmmState, answer, turn,
};
use banger_engine::ports::{Failure, GuestState};
use banger_engine::{Engine, OpState, OperationView, VmView};
use banger_testkit::{FailMode, Failpoint, FakeHost};
use common::{end, open, running, until_phase, wanted};
use futures_util::future::join_all;

/// Longer than any of these tests: who waits for it waits in vain.
const FOREVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(10);

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Provisioning,
    Starting,
    WaitedFor,
    Running,
    Paused,
    Stopping,
    Stopped,
    Failed,
    FailedAlive,
    Deleting,
    /// What a delete that failed leaves.
    HalfDeleted,
}

impl Column {
    const ALL: [Self; 11] = [
        Self::Provisioning,
        Self::Starting,
        Self::WaitedFor,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::FailedAlive,
        Self::Deleting,
        Self::HalfDeleted,
    ];

    fn situation(self) -> Situation {
        let (phase, vmm) = match self {
            Self::Provisioning => (Phase::Provisioning, VmmState::Gone),
            Self::Starting => (Phase::Starting, VmmState::Gone),
            Self::WaitedFor | Self::Running => (Phase::Running, VmmState::Runs),
            Self::Paused => (Phase::Running, VmmState::Paused),
            Self::Stopping => (Phase::Stopping, VmmState::Runs),
            Self::Stopped => (Phase::Stopped, VmmState::Gone),
            Self::Failed => (Phase::Failed, VmmState::Gone),
            Self::FailedAlive => (Phase::Failed, VmmState::Runs),
            Self::Deleting | Self::HalfDeleted => (Phase::Deleting, VmmState::Gone),
        };
        Situation { phase, vmm }
    }

    /// Where it leads when it is let end. None: the VM is gone.
    fn leads_to(self) -> Option<Self> {
        Some(match self {
            Self::Provisioning | Self::Starting | Self::WaitedFor => Self::Running,
            Self::Stopping => Self::Stopped,
            Self::Deleting => return None,
            settled => settled,
        })
    }
}

/// A VM in that situation, and what goes on with it.
struct Stage {
    host: FakeHost,
    _dir: tempfile::TempDir,
    engine: Engine,
    vm: VmId,
    going_on: Option<OperationView>,
}

impl Stage {
    async fn set(column: Column) -> Self {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let hold = |at| {
            let mode = FailMode::Hold;
            host.set_failpoint(Some(Failpoint { at, mode }));
        };
        let mut going_on = None;
        let vm = match column {
            Column::Provisioning => {
                hold(2);
                let made = engine.create(wanted(Some("demo"), true)).await.unwrap();
                host.held().await;
                going_on.insert(made).vm.clone().unwrap()
            }
            Column::WaitedFor => {
                host.hang_guests();
                let made = engine.create(wanted(Some("demo"), true)).await.unwrap();
                let vm = going_on.insert(made).vm.clone().unwrap();
                until_phase(&engine, &vm, Phase::Running).await;
                vm
            }
            _ => running(&engine).await,
        };
        match column {
            Column::Provisioning | Column::WaitedFor | Column::Running => {}
            Column::Paused => {
                host.signal_from_outside(&vm, true);
                let mut view = engine.watch_vm(&vm).unwrap();
                let paused = view.wait_for(|view| view.paused.is_some());
                tokio::time::timeout(SOON, paused).await.unwrap().unwrap();
            }
            Column::Stopping => {
                host.hang_guests();
                going_on = Some(engine.stop(&vm, FOREVER).unwrap());
                until_phase(&engine, &vm, Phase::Stopping).await;
            }
            Column::Stopped | Column::Starting => {
                end(&engine, engine.stop(&vm, SOON)).await;
                if column == Column::Starting {
                    hold(0);
                    going_on = Some(engine.start(&vm, None, None).unwrap());
                    host.held().await;
                }
            }
            Column::Failed => {
                host.end_guest(&vm, None);
                until_phase(&engine, &vm, Phase::Failed).await;
            }
            Column::FailedAlive => {
                host.hang_guests();
                let (ready, short) = (Some(GuestState::Ready), Some(Duration::from_millis(30)));
                let begun = engine.restart(&vm, Duration::ZERO, ready, short);
                assert!(matches!(end(&engine, begun).await, OpState::Failed(_)));
                host.heal_guests();
            }
            Column::Deleting => {
                hold(0);
                going_on = Some(engine.delete(&vm).unwrap());
                host.held().await;
            }
            Column::HalfDeleted => {
                let mode = FailMode::Error;
                host.set_failpoint(Some(Failpoint { at: 0, mode }));
                let begun = engine.delete(&vm);
                assert!(matches!(end(&engine, begun).await, OpState::Failed(_)));
            }
        }
        let view = engine.get(&vm).unwrap();
        assert_eq!(view.phase, column.situation().phase, "{column:?}");
        Self {
            host,
            _dir: dir,
            engine,
            vm,
            going_on,
        }
    }

    /// Lets what goes on end.
    fn release(&self) {
        self.host.release();
        self.host.heal_guests();
    }

    async fn ended(&self, begun: Result<OperationView, Failure>) -> Result<(), ErrorCode> {
        let operation = begun.map_err(|failure| failure.code)?;
        match end(&self.engine, Ok(operation)).await {
            OpState::Succeeded => Ok(()),
            OpState::Failed(failure) => Err(failure.code),
            other => panic!("{other:?}"),
        }
    }

    fn begin(&self, verb: Verb) -> Option<Result<OperationView, Failure>> {
        let (engine, vm) = (&self.engine, &self.vm);
        let nat = SpecChange {
            nat: Some(true),
            ..SpecChange::default()
        };
        let larger = SpecChange {
            memory_mib: Some(MemoryMib(2048)),
            disk_size: Some(ByteSize::gib(16)),
            ..SpecChange::default()
        };
        Some(match verb {
            Verb::Look | Verb::UseGuest | Verb::CreateNamesake => return None,
            Verb::Start => engine.start(vm, Some(GuestState::Ready), None),
            Verb::Stop => engine.stop(vm, SOON),
            Verb::Restart => engine.restart(vm, SOON, Some(GuestState::Ready), None),
            Verb::Kill => engine.kill(vm, KillSignal::Kill),
            Verb::SetNat => engine.set(vm, nat),
            Verb::SetSizes => engine.set(vm, larger),
            Verb::Delete => engine.delete(vm),
            Verb::Prune => engine.delete_stopped(vm),
        })
    }

    /// What is not queued with the VM's task.
    async fn ask(&self, verb: Verb) -> Result<(), ErrorCode> {
        let result = match verb {
            Verb::Look => self.engine.resolve("demo").map(drop),
            Verb::UseGuest => {
                let reachable = GuestState::Reachable;
                self.engine.wait_guest(&self.vm, reachable, SOON).await
            }
            Verb::CreateNamesake => {
                let made = self.engine.create(wanted(Some("demo"), true)).await;
                made.map(drop)
            }
            _ => return self.ended(self.begin(verb).unwrap()).await,
        };
        result.map_err(|failure| failure.code)
    }

    /// The answer is the promised one, and so is what has become of the VM.
    async fn assert_answered(&self, column: Column, verb: Verb, told: Result<(), ErrorCode>) {
        let promised = answer(column.situation(), verb);
        let expected = match promised {
            Answer::Does | Answer::Nothing => Ok(()),
            Answer::Refused(code) => Err(code),
        };
        assert_eq!(told, expected, "{verb:?} in {column:?}");
        let view = self.engine.get(&self.vm);
        let phase = view.as_ref().map(|view| view.phase);
        let then = match (promised, verb) {
            (Answer::Refused(_) | Answer::Nothing, _) | (_, Verb::Look | Verb::UseGuest) => {
                Some(column.situation().phase)
            }
            (_, Verb::Start | Verb::Restart) => Some(Phase::Running),
            (_, Verb::Stop | Verb::Kill) => Some(Phase::Stopped),
            (_, Verb::SetNat | Verb::SetSizes) => Some(column.situation().phase),
            (_, Verb::Delete | Verb::Prune) => None,
            (_, Verb::CreateNamesake) => panic!("it never does"),
        };
        assert_eq!(phase, then, "{verb:?} in {column:?}");
        let is_changed = |view: &VmView| match verb {
            Verb::SetNat => view.spec.nat,
            Verb::SetSizes => view.spec.memory_mib == MemoryMib(2048),
            _ => true,
        };
        if promised == Answer::Does {
            assert!(
                view.is_none_or(|view| is_changed(&view)),
                "{verb:?} in {column:?}"
            );
        }
    }
}

/// A VM with which nothing goes on: the answer comes at once.
async fn settled(column: Column, verb: Verb) {
    let stage = Stage::set(column).await;
    stage.host.set_failpoint(None);
    let before = stage.engine.get(&stage.vm);
    let told = stage.ask(verb).await;
    let promised = answer(column.situation(), verb);
    if promised != Answer::Does || verb == Verb::Look {
        assert_eq!(
            stage.host.calls(),
            0,
            "{verb:?} in {column:?} touched something"
        );
        // A guest whose boot took too long may well report now: that is not the verb's doing.
        let but_for_its_guest = |view: Option<VmView>| {
            view.map(|view| VmView {
                readiness: None,
                ..view
            })
        };
        assert_eq!(
            but_for_its_guest(stage.engine.get(&stage.vm)),
            but_for_its_guest(before),
            "{verb:?} in {column:?}"
        );
    }
    stage.assert_answered(column, verb, told).await;
}

/// A VM with which something goes on.
async fn going_on(column: Column, verb: Verb) {
    let stage = Stage::set(column).await;
    let going_on = stage.going_on.clone().unwrap();
    let context = format!("{verb:?} in {column:?}");
    match turn(column.situation().phase, verb) {
        Turn::Now => {
            if verb == Verb::UseGuest && column == Column::WaitedFor {
                // It is not refused, but waits for the guest by itself.
                stage.release();
            }
            let told = stage.ask(verb).await;
            stage.assert_answered(column, verb, told).await;
            stage.release();
            assert_eq!(stage.ended(Ok(going_on)).await, Ok(()), "{context}");
        }
        Turn::Interrupts => {
            let begun = stage.begin(verb).unwrap();
            // The step that is going on is let end; whoever waits for a guest waits no longer.
            stage.host.release();
            let interrupted = stage.ended(Ok(going_on)).await;
            if column == Column::Stopping {
                assert_eq!(interrupted, Ok(()), "{context}");
            } else {
                assert_eq!(interrupted, Err(ErrorCode::Cancelled), "{context}");
            }
            if verb == Verb::Restart {
                // It waits for the next boot's guest, and a stop for its shutdown.
                stage.host.heal_guests();
            }
            if verb == Verb::Stop {
                stage.host.heal_guests();
            }
            let told = stage.ended(begun).await;
            stage.assert_answered(column, verb, told).await;
            if column == Column::Stopping {
                assert_eq!(
                    stage.host.shutdowns(),
                    0,
                    "{context}: nobody waited for the guest"
                );
            }
        }
        Turn::After => {
            let told = match stage.begin(verb) {
                Some(begun) => {
                    let id = begun.as_ref().unwrap().id.clone();
                    let state = stage.engine.operation(&id).await.unwrap().state;
                    assert_eq!(state, OpState::Running, "{context}");
                    stage.release();
                    assert_eq!(stage.ended(Ok(going_on)).await, Ok(()), "{context}");
                    stage.ended(begun).await
                }
                None => {
                    let asked = stage.ask(verb);
                    let let_end = async {
                        stage.release();
                        assert_eq!(stage.ended(Ok(going_on)).await, Ok(()), "{context}");
                    };
                    tokio::join!(asked, let_end).0
                }
            };
            match column.leads_to() {
                Some(then) => stage.assert_answered(then, verb, told).await,
                None => {
                    let is_delete = matches!(verb, Verb::Delete | Verb::Prune);
                    let gone = if is_delete {
                        Ok(())
                    } else {
                        Err(ErrorCode::VmNotFound)
                    };
                    assert_eq!(told, gone, "{context}");
                }
            }
        }
    }
}

async fn column(column: Column) {
    let goes_on = matches!(
        column,
        Column::Provisioning
            | Column::Starting
            | Column::WaitedFor
            | Column::Stopping
            | Column::Deleting
    );
    let each = Verb::ALL.map(|verb| async move {
        if goes_on {
            going_on(column, verb).await;
        } else {
            settled(column, verb).await;
        }
    });
    join_all(each).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_in_each_situation_is_answered_as_the_table_says() {
    for one in Column::ALL {
        column(one).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_cancelled_leaves_the_vm_stopped() {
    let stage = Stage::set(Column::Starting).await;
    let going_on = stage.going_on.clone().unwrap();
    stage.engine.cancel(&going_on.id).unwrap();
    stage.release();
    assert_eq!(end(&stage.engine, Ok(going_on)).await, OpState::Cancelled);
    until_phase(&stage.engine, &stage.vm, Phase::Stopped).await;
    assert_eq!(stage.ask(Verb::Start).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_daemon_has_looked_around_is_done_right_as_well() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    engine.abort();
    let engine = common::open_unreconciled(&host, dir.path()).await;
    // Adopted first: the guest is shut down, not cut off.
    let state = end(&engine, engine.stop(&vm, SOON)).await;
    assert_eq!((state, host.shutdowns()), (OpState::Succeeded, 1));
    engine.reconcile().await.unwrap();
    let state = end(&engine, engine.start(&vm, None, None)).await;
    assert_eq!((state, host.living()), (OpState::Succeeded, 1));
}
