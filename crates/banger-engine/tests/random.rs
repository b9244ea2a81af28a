//! Random sequences of what people, guests, hosts and fate do to VMs, with daemons that die in between,
//! against a model of what must be true after each. `BANGER_SEQUENCES` says how many (300).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use banger_core::{
    Answer, ByteSize, ErrorCode, KillSignal, OpId, Phase, Situation, SpecChange, Verb, VmId,
    VmmState, answer,
};
use banger_engine::ports::{Failure, Farewell};
use banger_engine::{Engine, OpState, OperationView, VmView};
use banger_testkit::{FailMode, Failpoint, FakeHost};
use common::{open, wanted};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use tokio::runtime::Runtime;

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Enough for a model of a guest; one whose agent fails is not waited for longer.
const GRACE: Duration = Duration::from_millis(300);

/// What is asked of banger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Create { start: bool },
    Start,
    Stop { grace: bool },
    Restart,
    Kill(KillSignal),
    Nat(bool),
    Grow,
    Delete,
    Prune,
}

/// What happens.
#[derive(Debug, Clone)]
enum Happens {
    /// One thing is asked and waited for; what becomes of it is known before.
    Asked(usize, Ask),
    /// The same with a call that fails, or is the daemon's last.
    Failing(usize, Ask, usize, FailMode),
    /// Several are asked at once.
    AtOnce(Vec<(usize, Ask)>),
    /// The same, and the daemon dies in the middle of it.
    AndDeath(Vec<(usize, Ask)>),
    /// A guest ends by itself.
    GuestEnds(usize, Option<bool>),
    /// The daemon dies, and another comes.
    Death,
    /// The host starts anew.
    HostReboot,
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        4 => any::<bool>().prop_map(|rare| Ask::Create { start: !rare }),
        3 => Just(Ask::Start),
        2 => any::<bool>().prop_map(|grace| Ask::Stop { grace }),
        2 => Just(Ask::Restart),
        1 => Just(Ask::Kill(KillSignal::Kill)),
        1 => Just(Ask::Kill(KillSignal::Term)),
        1 => any::<bool>().prop_map(Ask::Nat),
        1 => Just(Ask::Grow),
        1 => Just(Ask::Delete),
        1 => Just(Ask::Prune),
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    let slot = || 0..NAMES.len();
    let several = || prop::collection::vec((slot(), ask()), 2..5);
    let mode = prop::sample::select(FailMode::ALL.to_vec());
    let ends = prop_oneof![Just(None), Just(Some(true)), Just(Some(false))];
    prop_oneof![
        10 => (slot(), ask()).prop_map(|(vm, ask)| Happens::Asked(vm, ask)),
        4 => (slot(), ask(), 0..12_usize, mode)
            .prop_map(|(vm, ask, at, mode)| Happens::Failing(vm, ask, at, mode)),
        3 => several().prop_map(Happens::AtOnce),
        2 => several().prop_map(Happens::AndDeath),
        2 => (slot(), ends).prop_map(|(vm, how)| Happens::GuestEnds(vm, how)),
        1 => Just(Happens::Death),
        1 => Just(Happens::HostReboot),
    ]
}

/// What is known of a VM.
#[derive(Debug, Clone)]
struct Known {
    id: VmId,
    phase: Phase,
    disk_size: ByteSize,
    /// Tells its disks from others that are as large.
    disks: Option<u64>,
    reboots: u32,
}

/// The host, the daemon of the moment, and what must be true.
struct World {
    host: FakeHost,
    dir: tempfile::TempDir,
    life: Option<(Runtime, Engine)>,
    known: BTreeMap<usize, Known>,
}

impl World {
    fn new() -> Self {
        // The database of a test need not outlive a power cut.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let mut world = Self {
            host: FakeHost::default(),
            dir: dir.unwrap(),
            life: None,
            known: BTreeMap::new(),
        };
        world.next_daemon();
        world
    }

    /// The daemon dies, with all that it was about to do, and another one comes.
    fn next_daemon(&mut self) {
        // Waits for queries that had begun, as the kernel would for a system call.
        drop(self.life.take());
        self.host.set_failpoint(None);
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let engine = runtime.block_on(open(&self.host, self.dir.path()));
        self.life = Some((runtime, engine));
    }

    fn engine(&self) -> &Engine {
        &self.life.as_ref().unwrap().1
    }

    fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(Duration::from_secs(8), what).await };
        let (runtime, _) = self.life.as_ref().unwrap();
        runtime.block_on(limited).expect("nothing hangs")
    }

    fn view(&self, slot: usize) -> Option<VmView> {
        let all = self.engine().list();
        all.into_iter()
            .find(|view| view.name.as_str() == NAMES[slot])
    }

    async fn begin(&self, slot: usize, ask: Ask) -> Result<OperationView, Failure> {
        let engine = self.engine();
        if let Ask::Create { start } = ask {
            return engine.create(wanted(Some(NAMES[slot]), start)).await;
        }
        let vm = engine.resolve(NAMES[slot])?.id;
        match ask {
            Ask::Create { .. } => unreachable!("above"),
            Ask::Start => engine.start(&vm, None, None),
            Ask::Stop { grace } => engine.stop(&vm, if grace { GRACE } else { Duration::ZERO }),
            Ask::Restart => engine.restart(&vm, GRACE, None, None),
            Ask::Kill(signal) => engine.kill(&vm, signal),
            Ask::Nat(nat) => {
                let nat = Some(nat);
                engine.set(
                    &vm,
                    SpecChange {
                        nat,
                        ..SpecChange::default()
                    },
                )
            }
            Ask::Grow => {
                let now = engine.resolve(NAMES[slot])?.spec.disk_size;
                let disk_size = Some(ByteSize(now.0 + (1 << 30)));
                engine.set(
                    &vm,
                    SpecChange {
                        disk_size,
                        ..SpecChange::default()
                    },
                )
            }
            Ask::Delete => engine.delete(&vm),
            Ask::Prune => engine.delete_stopped(&vm),
        }
    }

    async fn end(&self, op: &OpId) -> OpState {
        if let Some(mut watch) = self.engine().watch(op) {
            let ended = watch.wait_for(|view| view.state != OpState::Running).await;
            return ended.unwrap().state.clone();
        }
        self.engine().operation(op).await.unwrap().state
    }

    /// Waits until every VM's task has done all that it had to do.
    fn settle(&self) {
        let _inside = self.life.as_ref().unwrap().0.enter();
        for view in self.engine().list() {
            let nat = Some(view.spec.nat);
            let nothing = SpecChange {
                nat,
                ..SpecChange::default()
            };
            // Of one that is gone meanwhile nothing is to be waited for.
            if let Ok(begun) = self.engine().set(&view.id, nothing) {
                let _ = self.wait(self.end(&begun.id));
            }
        }
    }

    /// What is known exactly of one request in a VM's state, and of the state after it.
    fn promised(&self, slot: usize, ask: Ask) -> (Result<(), ErrorCode>, Option<Phase>) {
        let Some(known) = self.known.get(&slot) else {
            return match ask {
                Ask::Create { start: true } => (Ok(()), Some(Phase::Running)),
                Ask::Create { start: false } => (Ok(()), Some(Phase::Stopped)),
                _ => (Err(ErrorCode::VmNotFound), None),
            };
        };
        let lives = self.host.lives(&known.id);
        let vmm = if lives {
            VmmState::Runs
        } else {
            VmmState::Gone
        };
        let phase = known.phase;
        let verb = match ask {
            Ask::Create { .. } => Verb::CreateNamesake,
            Ask::Start => Verb::Start,
            Ask::Stop { .. } => Verb::Stop,
            Ask::Restart => Verb::Restart,
            Ask::Kill(_) => Verb::Kill,
            Ask::Nat(_) => Verb::SetNat,
            Ask::Grow => Verb::SetSizes,
            Ask::Delete => Verb::Delete,
            Ask::Prune => Verb::Prune,
        };
        let result = match answer(Situation { phase, vmm }, verb) {
            Answer::Does | Answer::Nothing => Ok(()),
            Answer::Refused(code) => Err(code),
        };
        let then = match (result, ask) {
            (Err(_), _) | (_, Ask::Create { .. } | Ask::Nat(_) | Ask::Grow) => Some(phase),
            (Ok(()), Ask::Start | Ask::Restart) => Some(Phase::Running),
            (Ok(()), Ask::Stop { .. } | Ask::Kill(_)) => Some(Phase::Stopped),
            (Ok(()), Ask::Delete | Ask::Prune) => None,
        };
        (result, then)
    }

    /// Does it; gives the slots whose VM may be gone now.
    fn happen(&mut self, what: &Happens) -> Vec<usize> {
        match what {
            Happens::Asked(slot, ask) => {
                let (result, then) = self.promised(*slot, *ask);
                let told = self.wait(async {
                    match self.begin(*slot, *ask).await {
                        Ok(begun) => match self.end(&begun.id).await {
                            OpState::Succeeded => Ok(()),
                            OpState::Failed(failure) => Err(failure.code),
                            other => panic!("{other:?}"),
                        },
                        Err(failure) => Err(failure.code),
                    }
                });
                assert_eq!(told, result, "{what:?}");
                assert_eq!(self.view(*slot).map(|view| view.phase), then, "{what:?}");
                let is_gone = then.is_none();
                is_gone.then_some(*slot).into_iter().collect()
            }
            Happens::Failing(slot, ask, at, mode) => {
                let (at, mode) = (*at, *mode);
                self.host.set_failpoint(Some(Failpoint { at, mode }));
                let (crashed, op) = self.wait(async {
                    let Ok(begun) = self.begin(*slot, *ask).await else {
                        return (false, None);
                    };
                    tokio::select! {
                        _ = self.end(&begun.id) => (false, Some(begun.id)),
                        () = self.host.crashed() => (true, Some(begun.id)),
                    }
                });
                let was_hit = self.host.calls() > at;
                if crashed || was_hit {
                    self.next_daemon();
                } else {
                    self.host.set_failpoint(None);
                }
                self.settle();
                self.assert_ended(op);
                // Without room a create takes away what it has made.
                let is_undone = mode == FailMode::DiskFull && matches!(ask, Ask::Create { .. });
                self.maybe_gone([(*slot, *ask)].iter(), is_undone)
            }
            Happens::AtOnce(asks) | Happens::AndDeath(asks) => {
                let begun: Vec<OpId> = self.wait(async {
                    let mut begun = Vec::new();
                    for (slot, ask) in asks {
                        begun.extend(self.begin(*slot, *ask).await.map(|op| op.id));
                    }
                    begun
                });
                if matches!(what, Happens::AndDeath(_)) {
                    self.next_daemon();
                } else {
                    for op in &begun {
                        let _ = self.wait(self.end(op));
                    }
                }
                self.settle();
                for op in begun {
                    self.assert_ended(Some(op));
                }
                self.maybe_gone(asks.iter(), false)
            }
            Happens::GuestEnds(slot, how) => {
                let Some(known) = self.known.get_mut(slot) else {
                    return vec![];
                };
                if known.phase != Phase::Running || known.reboots > 3 {
                    return vec![];
                }
                let farewell = how.map(|powers_off| match powers_off {
                    true => Farewell::Poweroff,
                    false => Farewell::Reboot,
                });
                known.reboots += u32::from(farewell == Some(Farewell::Reboot));
                let id = known.id.clone();
                self.host.end_guest(&id, farewell);
                self.settle();
                let then = match farewell {
                    Some(Farewell::Poweroff) => Phase::Stopped,
                    Some(Farewell::Reboot) => Phase::Running,
                    None => Phase::Failed,
                };
                assert_eq!(self.view(*slot).unwrap().phase, then, "{what:?}");
                vec![]
            }
            Happens::Death => {
                let before: Vec<_> = self.engine().list().iter().map(settled_part).collect();
                self.next_daemon();
                self.settle();
                let after: Vec<_> = self.engine().list().iter().map(settled_part).collect();
                assert_eq!(after, before, "a daemon that dies changes nothing");
                vec![]
            }
            Happens::HostReboot => {
                drop(self.life.take());
                self.host.reboot();
                self.next_daemon();
                self.settle();
                assert_eq!(self.host.living(), 0, "nothing runs after a reboot");
                vec![]
            }
        }
    }

    fn maybe_gone<'a>(
        &self,
        asks: impl Iterator<Item = &'a (usize, Ask)>,
        is_undone: bool,
    ) -> Vec<usize> {
        let ends = |ask: Ask| matches!(ask, Ask::Delete | Ask::Prune) || is_undone;
        asks.filter(|(_, ask)| ends(*ask))
            .map(|(slot, _)| *slot)
            .collect()
    }

    /// No operation goes on for ever. One that its daemon died with may never have been stored.
    fn assert_ended(&self, op: Option<OpId>) {
        let Some(op) = op else { return };
        if self.engine().watch(&op).is_some() {
            let _ = self.wait(self.end(&op));
            return;
        }
        match self.wait(self.engine().operation(&op)) {
            Ok(view) => assert_ne!(view.state, OpState::Running, "{view:?} is stuck"),
            Err(failure) => assert_eq!(failure.code, ErrorCode::OperationNotFound),
        }
    }

    /// What must be true whenever nothing goes on.
    fn check(&mut self, may_be_gone: &[usize]) {
        self.finish_half_deleted();
        for (slot, name) in NAMES.iter().enumerate() {
            let view = self.view(slot);
            let before = self.known.remove(&slot);
            if let Some(before) = &before {
                let lost = view.as_ref().is_none_or(|view| view.id != before.id);
                assert!(!lost || may_be_gone.contains(&slot), "VM {name} is lost");
            }
            let Some(view) = view else { continue };
            let before = before.filter(|before| before.id == view.id);
            let disks = self.host.disks(&view.id);
            if let Some(before) = &before {
                assert!(view.spec.disk_size >= before.disk_size, "{view:?}");
                assert!(
                    before.disks.is_none() || disks == before.disks,
                    "its disks are others"
                );
            }
            match view.phase {
                Phase::Running => {
                    assert!(self.host.lives(&view.id), "{view:?} does not run");
                    let real = self.host.real_spec(&view.id).unwrap();
                    assert_eq!(real, view.spec, "the host has it otherwise");
                }
                Phase::Stopped => {
                    let left = self.host.running_parts(&view.id);
                    assert!(left.is_empty(), "stopped, with {left:?}");
                }
                Phase::Failed => assert!(view.last_error.is_some(), "{view:?} says not why"),
                other => panic!("{view:?} is stuck in {other:?}"),
            }
            let known = Known {
                id: view.id.clone(),
                phase: view.phase,
                disk_size: view.spec.disk_size,
                disks,
                reboots: before.map_or(0, |before| before.reboots),
            };
            self.known.insert(slot, known);
        }
        let ids: Vec<VmId> = self.known.values().map(|known| known.id.clone()).collect();
        assert_eq!(self.host.leftovers_but_for(&ids), Vec::<String>::new());
        let names: Vec<String> = self
            .engine()
            .list()
            .iter()
            .map(|v| v.name.to_string())
            .collect();
        assert_eq!(self.host.names(), names, "the name service");
    }

    /// A delete that failed can be done again.
    fn finish_half_deleted(&self) {
        let _inside = self.life.as_ref().unwrap().0.enter();
        for view in self.engine().list() {
            if view.phase == Phase::Deleting {
                let begun = self.engine().delete(&view.id).unwrap();
                assert_eq!(self.wait(self.end(&begun.id)), OpState::Succeeded);
            }
        }
    }
}

/// What a change of daemons leaves as it is.
fn settled_part(view: &VmView) -> (VmId, Phase, banger_core::VmSpec, Option<Failure>) {
    let view = view.clone();
    (view.id, view.phase, view.spec, view.last_error)
}

fn live(sequence: &[Happens]) {
    let mut world = World::new();
    for what in sequence {
        let may_be_gone = world.happen(what);
        world.check(&may_be_gone);
    }
    // What is stored is what is shown.
    world.happen(&Happens::Death);
    for slot in 0..NAMES.len() {
        world.happen(&Happens::Asked(slot, Ask::Delete));
    }
    assert_eq!(world.host.leftovers(), Vec::<String>::new(), "in the end");
}

#[test]
fn whatever_happens_no_vm_is_lost_and_nothing_is_left_behind() {
    let cases = std::env::var("BANGER_SEQUENCES").map_or(300, |count| count.parse().unwrap());
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_time: 100_000,
        ..Config::default()
    };
    let sequences = prop::collection::vec(happens(), 1..20);
    let mut runner = TestRunner::new(config);
    let run = runner.run(&sequences, |sequence| {
        live(&sequence);
        Ok(())
    });
    match run {
        Ok(()) => {}
        Err(TestError::Fail(why, least)) => panic!("{why}\nafter {least:?}"),
        Err(error) => panic!("{error}"),
    }
}
