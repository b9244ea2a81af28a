//! Random things asked of VMs with real guests, and random ends of guests, VMMs and daemons, against a model of
//! what must be true after each. The engine's own test of this kind asks thousands of times of a modelled host;
//! this one asks whether the model is right.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use banger_core::{Answer, ErrorCode, Phase, Situation, Verb, VmmState, answer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::aftermath::{REST, aftermath, settled};
use crate::chance::Chance;
use crate::processes::{kill_all, pause};
use crate::{Banger, Finished, SMALL};

/// How it went.
#[derive(Debug, Default)]
pub struct Random {
    /// What happened, and how often.
    pub happened: BTreeMap<&'static str, usize>,
    /// What must not be.
    pub problems: Vec<String>,
}

impl Random {
    /// The figures, on a few lines.
    #[must_use]
    pub fn summary(&self) -> String {
        let all: usize = self.happened.values().sum();
        let each = self.happened.iter().map(|(what, n)| format!("{what} {n}"));
        let each: Vec<String> = each.collect();
        format!(
            "{all} steps: {}\nproblems: {}",
            each.join(", "),
            self.problems.len()
        )
    }
}

/// What is known of a VM that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    phase: Phase,
    memory_mib: u64,
    disk_gib: u64,
    /// The guest's boot, while it runs.
    boot: Option<String>,
    /// What stands on both its disks.
    mark: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Create,
    Start,
    Stop,
    StopAtOnce,
    Restart,
    Kill,
    Nat,
    Grow,
    Memory,
    Mark,
    Delete,
}

impl Ask {
    const ALL: [Self; 11] = [
        Self::Create,
        Self::Start,
        Self::Stop,
        Self::StopAtOnce,
        Self::Restart,
        Self::Kill,
        Self::Nat,
        Self::Grow,
        Self::Memory,
        Self::Mark,
        Self::Delete,
    ];

    const fn verb(self) -> Verb {
        match self {
            Self::Create => Verb::CreateNamesake,
            Self::Start => Verb::Start,
            Self::Stop | Self::StopAtOnce => Verb::Stop,
            Self::Restart => Verb::Restart,
            Self::Kill => Verb::Kill,
            Self::Nat => Verb::SetNat,
            Self::Grow | Self::Memory => Verb::SetSizes,
            Self::Mark => Verb::UseGuest,
            Self::Delete => Verb::Delete,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::StopAtOnce => "stop at once",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Nat => "set nat",
            Self::Grow => "grow",
            Self::Memory => "set memory",
            Self::Mark => "write",
            Self::Delete => "delete",
        }
    }
}

/// How a guest ends without being asked by banger.
#[derive(Debug, Clone, Copy)]
enum End {
    PowerOff,
    Reboot,
    Panic,
    VmmKilled,
}

/// Does random things for that long.
///
/// # Panics
/// When programs cannot be started at all.
#[must_use]
pub fn random(banger: &Banger, time: Duration, seed: u64) -> Random {
    let mut world = World {
        banger,
        known: BTreeMap::new(),
        chance: Chance::new(seed.wrapping_mul(97).wrapping_add(5)),
        steps: 0,
        random: Random::default(),
    };
    let start = Instant::now();
    // After the first surprise the model knows nothing any more.
    while start.elapsed() < time && world.random.problems.is_empty() {
        if let Err(problem) = world.step() {
            let step = world.steps;
            world
                .random
                .problems
                .push(format!("step {step}: {problem}"));
        }
    }
    match settled(banger) {
        Ok(vms) => world.random.problems.extend(aftermath(banger, &vms)),
        Err(restless) => world.random.problems.push(restless),
    }
    world.random
}

/// Why something is not as it must be.
type Checked = Result<(), String>;

struct World<'a> {
    banger: &'a Banger,
    known: BTreeMap<&'static str, Known>,
    chance: Chance,
    steps: u64,
    random: Random,
}

/// How long somebody to kill is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

const NAMES: [&str; 3] = ["random-a", "random-b", "random-c"];

impl World<'_> {
    fn count(&mut self, what: &'static str) {
        *self.random.happened.entry(what).or_default() += 1;
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let at = usize::try_from(self.chance.below(of.len() as u64)).expect("small");
        of[at]
    }

    fn step(&mut self) -> Checked {
        self.steps += 1;
        let name = self.pick(&NAMES);
        // What does not exist is mostly made, so that there is something to happen to.
        let ask = match self.known.contains_key(name) || self.chance.below(8) == 0 {
            true => self.pick(&Ask::ALL),
            false => Ask::Create,
        };
        match self.chance.below(12) {
            0 | 1 => self.ends(name)?,
            2 => self.daemons_die(),
            3 => self.asked_while_daemons_die(name, ask)?,
            4 => self.asked_at_once(name, ask)?,
            _ => self.asked(name, ask)?,
        }
        self.check_all()
    }

    fn args(&self, name: &str, ask: Ask) -> Vec<String> {
        let known = self.known.get(name);
        let memory = known.map_or(256, |known| if known.memory_mib == 256 { 272 } else { 256 });
        let disk = known.map_or(2, |known| known.disk_gib + 1);
        let wait = " --wait reachable";
        let line = match ask {
            Ask::Create => format!("create --vcpu 1 --disk-size 2G {} --name", SMALL.join(" ")),
            Ask::Start => format!("start{wait}"),
            Ask::Stop => "stop".to_owned(),
            Ask::StopAtOnce => "stop --grace 0".to_owned(),
            Ask::Restart => format!("restart{wait}"),
            Ask::Kill => "kill".to_owned(),
            Ask::Nat => format!("set {}", ["--nat", "--no-nat"][self.steps as usize % 2]),
            Ask::Grow => format!("set --disk-size {disk}G"),
            Ask::Memory => format!("set --memory {memory}"),
            Ask::Mark => "exec".to_owned(),
            Ask::Delete => "delete --force".to_owned(),
        };
        let mut args: Vec<String> = ["vm"]
            .into_iter()
            .chain(line.split(' '))
            .map(str::to_owned)
            .collect();
        args.push(name.to_owned());
        if ask == Ask::Mark {
            let mark = self.steps;
            let line = format!("echo {mark} > /mark && echo {mark} > /root/mark && sync");
            args.extend(["--", "sh", "-c", &line].map(str::to_owned));
        }
        args
    }

    /// Asks it beside whatever else goes on.
    fn begin(&self, name: &str, ask: Ask) -> JoinHandle<Result<Finished, String>> {
        let args = self.args(name, ask);
        let banger = self.banger.clone();
        std::thread::spawn(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            banger.run_to_an_end(&args)
        })
    }

    /// What must come of it, by the table of phases and verbs.
    fn answer(&self, name: &str, ask: Ask) -> Answer {
        let Some(known) = self.known.get(name) else {
            return match ask {
                Ask::Create => Answer::Does,
                _ => Answer::Refused(ErrorCode::VmNotFound),
            };
        };
        let vmm = match known.phase {
            Phase::Running => VmmState::Runs,
            _ => VmmState::Gone,
        };
        let phase = known.phase;
        answer(Situation { phase, vmm }, ask.verb())
    }

    /// One thing, waited for.
    fn asked(&mut self, name: &'static str, ask: Ask) -> Checked {
        self.count(ask.title());
        let expected = self.answer(name, ask);
        let asked = self.begin(name, ask);
        self.answered(name, ask, expected, asked)
    }

    /// Waits for the answer, which must be the expected one.
    fn answered(
        &mut self,
        name: &'static str,
        ask: Ask,
        expected: Answer,
        asked: JoinHandle<Result<Finished, String>>,
    ) -> Checked {
        let finished = asked.join().expect("a client panicked")?;
        let is = match (expected, finished.code) {
            (Answer::Does | Answer::Nothing, 0) => true,
            (Answer::Refused(code), 1..) => finished.error_code() == code.as_str(),
            _ => false,
        };
        if !is {
            let before = self.known.get(name);
            return Err(format!(
                "{ask:?} of {name} ({before:?}): expected {expected:?}, got {} {}",
                finished.code, finished.stderr
            ));
        }
        if expected == Answer::Does {
            self.done(name, ask);
        }
        Ok(())
    }

    /// The model does it, too.
    fn done(&mut self, name: &'static str, ask: Ask) {
        if ask == Ask::Create {
            let new = Known {
                phase: Phase::Running,
                memory_mib: 256,
                disk_gib: 2,
                boot: None,
                mark: None,
            };
            self.known.insert(name, new);
        }
        if ask == Ask::Delete {
            self.known.remove(name);
        }
        let mark = self.steps.to_string();
        let Some(known) = self.known.get_mut(name) else {
            return;
        };
        match ask {
            Ask::Create | Ask::Start | Ask::Restart => {
                known.phase = Phase::Running;
                known.boot = None;
            }
            Ask::Stop | Ask::StopAtOnce | Ask::Kill => {
                known.phase = Phase::Stopped;
                known.boot = None;
            }
            Ask::Grow => known.disk_gib += 1,
            Ask::Memory => known.memory_mib = if known.memory_mib == 256 { 272 } else { 256 },
            Ask::Mark => known.mark = Some(mark),
            Ask::Nat | Ask::Delete => {}
        }
    }

    /// The same thing asked of all three at once: each by its own phase.
    fn asked_at_once(&mut self, first: &'static str, ask: Ask) -> Checked {
        self.count("three at once");
        let mut running = vec![];
        for name in NAMES {
            // One of the others is asked something else.
            let ask = match name == first {
                true => ask,
                false => self.pick(&Ask::ALL),
            };
            running.push((name, ask, self.answer(name, ask), self.begin(name, ask)));
        }
        let answered = running
            .into_iter()
            .map(|(name, ask, expected, asked)| self.answered(name, ask, expected, asked));
        // All are waited for.
        let problems: Vec<String> = answered.filter_map(Checked::err).collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(problems.join("; ")),
        }
    }

    /// Something is asked, and daemon, helper or both die at some moment of it: it is done, or not, or has
    /// failed; nothing is lost.
    fn asked_while_daemons_die(&mut self, name: &'static str, ask: Ask) -> Checked {
        self.count("killed in the middle");
        let asked = self.begin(name, ask);
        pause(Duration::from_millis(self.chance.below(2500)));
        self.daemons_die();
        let finished = asked.join().expect("a client panicked")?;
        let vms = settled(self.banger)?;
        let now = vms.iter().find(|vm| vm["name"] == name);
        let before = self.known.remove(name);
        match (now, before) {
            (None, None) => {}
            (None, Some(_)) if ask == Ask::Delete => {}
            (None, Some(_)) => return Err(format!("{name} is lost after {ask:?}")),
            (Some(_), None) if ask != Ask::Create => {
                return Err(format!(
                    "{name} is there after {ask:?}: {}",
                    finished.stderr
                ));
            }
            // A delete that was begun is not undone: what it left can only be deleted.
            (Some(vm), before) => {
                let phase = vm["phase"].as_str().and_then(Phase::from_word);
                let known = Known {
                    phase: phase.expect("a phase"),
                    memory_mib: vm["memory_mib"].as_u64().unwrap_or_default(),
                    disk_gib: vm["disk_size"].as_u64().unwrap_or_default() >> 30,
                    boot: None,
                    mark: before.and_then(|known| known.mark),
                };
                self.known.insert(name, known);
                if ask == Ask::Mark {
                    // Written or not: read what is there.
                    let mark = self.read_mark(name)?;
                    if let Some(known) = self.known.get_mut(name) {
                        known.mark = mark;
                    }
                }
            }
        }
        Ok(())
    }

    /// What stands on both disks, half-written or not: of a VM that runs.
    fn read_mark(&self, name: &str) -> Result<Option<String>, String> {
        // The write itself may still be going on in the guest, which the daemon's death does not end.
        let line = "while pidof sync >/dev/null; do :; done; cat /root/mark /mark; true";
        let read = self
            .banger
            .run(&["vm", "exec", name, "--", "sh", "-c", line]);
        let marks: Vec<&str> = read.stdout.lines().collect();
        match marks.as_slice() {
            [one, other] if one == other => Ok(Some((*one).to_owned())),
            // Between the two writes; the next write settles it.
            _ => Ok(None),
        }
    }

    /// Kills daemon, helper or both. A helper that nobody needs is not there, and stays so.
    fn daemons_die(&mut self) {
        let (what, programs): (_, &[&str]) = match self.chance.below(4) {
            0 => ("helper killed", &["bangerd-root"]),
            1 => ("both killed", &["bangerd", "bangerd-root"]),
            _ => ("daemon killed", &["bangerd"]),
        };
        self.count(what);
        let programs = programs.iter().map(|program| self.banger.program(program));
        let programs: Vec<_> = programs.collect();
        let start = Instant::now();
        while !kill_all(&programs) && start.elapsed() < PATIENCE {
            // The next command brings them.
            self.banger.run(&["vm", "list"]);
        }
    }

    /// A guest or its VMM ends by itself.
    fn ends(&mut self, name: &'static str) -> Checked {
        let runs = |known: &&Known| known.phase == Phase::Running;
        let Some(known) = self.known.get(name).filter(runs).cloned() else {
            return Ok(());
        };
        let end = self.pick(&[End::PowerOff, End::Reboot, End::Panic, End::VmmKilled]);
        let (what, line) = match end {
            End::PowerOff => ("poweroff", "poweroff"),
            End::Reboot => ("reboot", "reboot"),
            End::Panic => (
                "panic",
                "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger",
            ),
            End::VmmKilled => ("vmm killed", ""),
        };
        self.count(what);
        if let End::VmmKilled = end {
            let shown = self.banger.json(&["vm", "show", name]);
            let pid = shown["vmm_pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok());
            let pid = pid
                .and_then(Pid::from_raw)
                .ok_or("a running VM without a VMM")?;
            kill_process(pid, Signal::KILL).map_err(|error| format!("killing a VMM: {error}"))?;
        } else {
            // The answer may not come any more.
            let args = ["vm", "exec", name, "--", "sh", "-c", line];
            let _ = self.banger.run_to_an_end(&args)?;
        }
        let phase = match end {
            End::PowerOff => Phase::Stopped,
            End::Reboot => Phase::Running,
            End::Panic | End::VmmKilled => Phase::Failed,
        };
        let start = Instant::now();
        loop {
            let shown = self.banger.json(&["vm", "show", name]);
            let now = shown["phase"].as_str().and_then(Phase::from_word);
            let again = now == Some(phase)
                && (phase != Phase::Running
                    || boot_id(self.banger, name).is_some_and(|boot| Some(boot) != known.boot));
            if again {
                break;
            }
            if start.elapsed() > REST {
                return Err(format!(
                    "after {end:?} {name} is {now:?}, not {phase:?}: {shown}"
                ));
            }
            pause(Duration::from_millis(50));
        }
        if let Some(known) = self.known.get_mut(name) {
            known.phase = phase;
            known.boot = None;
        }
        Ok(())
    }

    /// What is there is what the model has: no VM more or less, each in its phase, with its sizes, in the boot
    /// that it was in, with what was written.
    fn check_all(&mut self) -> Checked {
        let vms = settled(self.banger)?;
        let known: Vec<&'static str> = self.known.keys().copied().collect();
        let mut found: Vec<&str> = vms.iter().filter_map(|vm| vm["name"].as_str()).collect();
        found.sort_unstable();
        if found != known {
            return Err(format!("there are {found:?}, not {known:?}"));
        }
        for name in known {
            let vm = vms.iter().find(|vm| vm["name"] == name);
            self.check(name, vm.unwrap_or(&Value::Null))?;
        }
        Ok(())
    }

    fn check(&mut self, name: &str, vm: &Value) -> Checked {
        let Some(known) = self.known.get_mut(name) else {
            return Ok(());
        };
        let phase = vm["phase"].as_str().unwrap_or_default();
        let memory_mib = vm["memory_mib"].as_u64().unwrap_or_default();
        let disk_gib = vm["disk_size"].as_u64().unwrap_or_default() >> 30;
        if (phase, memory_mib, disk_gib) != (known.phase.as_str(), known.memory_mib, known.disk_gib)
        {
            return Err(format!("{name} is not {known:?} but {vm}"));
        }
        if known.phase != Phase::Running {
            return Ok(());
        }
        let Some(boot) = boot_id(self.banger, name) else {
            return Err(format!("{name} runs and does not answer: {vm}"));
        };
        let before = known.boot.get_or_insert_with(|| boot.clone());
        if *before != boot {
            return Err(format!("{name} has booted without being told to"));
        }
        if let Some(mark) = &known.mark {
            let marks = ["vm", "exec", name, "--", "cat", "/root/mark", "/mark"];
            let read = self.banger.run(&marks);
            if read.stdout != format!("{mark}\n{mark}\n") {
                let said = (read.stdout, read.stderr);
                return Err(format!("{name} has {said:?} on its disks, not {mark}"));
            }
        }
        Ok(())
    }
}

/// Which boot of its guest this is, when it answers.
fn boot_id(banger: &Banger, name: &str) -> Option<String> {
    let file = "/proc/sys/kernel/random/boot_id";
    let asked = banger.run(&["vm", "exec", name, "--", "cat", file]);
    (asked.code == 0).then(|| asked.stdout.trim().to_owned())
}
