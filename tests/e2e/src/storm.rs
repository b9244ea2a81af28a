//! A storm of kills: daemon and helper are killed at random moments while several clients have VMs made,
//! changed, used and deleted. Afterwards no VM may be lost, nothing left behind, nothing stuck, and the
//! database must be whole.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::aftermath::{REST, aftermath, settled};
use crate::chance::Chance;
use crate::processes::{kill_all, pause};
use crate::{Banger, Finished, SMALL};

/// How it went.
#[derive(Debug, Default)]
pub struct Storm {
    /// How often each was killed.
    pub kills: BTreeMap<&'static str, usize>,
    /// Commands by verb: those that succeeded, and all.
    pub commands: BTreeMap<&'static str, (usize, usize)>,
    /// Why commands failed, by code.
    pub failures: BTreeMap<String, usize>,
    /// What must not be.
    pub problems: Vec<String>,
}

impl Storm {
    /// The figures, on a few lines.
    #[must_use]
    pub fn summary(&self) -> String {
        let kills: Vec<String> = self
            .kills
            .iter()
            .map(|(who, n)| format!("{who} {n}"))
            .collect();
        let commands = self.commands.iter();
        let commands: Vec<String> = commands
            .map(|(v, (ok, all))| format!("{v} {ok}/{all}"))
            .collect();
        let failures: Vec<String> = self
            .failures
            .iter()
            .map(|(c, n)| format!("{c} {n}"))
            .collect();
        format!(
            "killed: {}\ncommands that succeeded: {}\nwhy others failed: {}\nproblems: {}",
            kills.join(", "),
            commands.join(", "),
            failures.join(", "),
            self.problems.len()
        )
    }
}

/// What is known of the VM of one client.
#[derive(Debug, Default)]
struct Known {
    /// A create succeeded, and nothing was said against it since.
    exists: bool,
    /// What may stand in its file; empty: nothing is known.
    marks: Vec<String>,
}

struct World<'a> {
    banger: &'a Banger,
    ended: AtomicBool,
    storm: Mutex<Storm>,
}

/// Kills daemon and helper that many times while that many clients work, each on a VM of its own.
///
/// # Panics
/// When programs cannot be started at all.
#[must_use]
pub fn storm(banger: &Banger, kills: usize, clients: usize, seed: u64) -> Storm {
    let world = World {
        banger,
        ended: AtomicBool::new(false),
        storm: Mutex::default(),
    };
    let known: Vec<(String, Known)> = std::thread::scope(|scope| {
        let working: Vec<_> = (0..clients)
            .map(|number| {
                let world = &world;
                scope.spawn(move || {
                    let name = format!("storm-{number}");
                    let chance = Chance::new(seed.wrapping_mul(31).wrapping_add(number as u64 + 1));
                    let known = world.work(&name, chance);
                    (name, known)
                })
            })
            .collect();
        world.kill(kills, Chance::new(seed.wrapping_add(77)));
        world.ended.store(true, Ordering::Release);
        let ended = working.into_iter().map(|client| client.join());
        ended
            .map(|known| known.expect("a client panicked"))
            .collect()
    });
    world.look_around(known);
    world.storm.into_inner().expect("nobody panicked")
}

impl World<'_> {
    fn note(&self, note: impl FnOnce(&mut Storm)) {
        note(&mut self.storm.lock().expect("nobody panicked"));
    }

    fn problem(&self, what: String) {
        self.note(|storm| storm.problems.push(what));
    }

    /// The killer.
    fn kill(&self, count: usize, mut chance: Chance) {
        for _ in 0..count {
            // Mostly in quick succession, and now and then long enough for a guest to boot.
            let calm = chance.below(4) == 0;
            let gap = if calm {
                2000 + chance.below(5000)
            } else {
                30 + chance.below(1000)
            };
            pause(Duration::from_millis(gap));
            let (who, programs): (_, &[&str]) = match chance.below(4) {
                0 => ("helper", &["bangerd-root"]),
                1 => ("both", &["bangerd", "bangerd-root"]),
                _ => ("daemon", &["bangerd"]),
            };
            let programs = programs.iter().map(|program| self.banger.program(program));
            let programs: Vec<_> = programs.collect();
            let start = Instant::now();
            let mut killed = false;
            while !killed && start.elapsed() < REST {
                killed = kill_all(&programs);
                if !killed {
                    pause(Duration::from_millis(20));
                }
            }
            if !killed {
                self.problem(format!("no {who} to kill for {REST:?}"));
            }
            self.note(|storm| *storm.kills.entry(who).or_default() += 1);
        }
    }

    /// A command; None when it did not end.
    fn run(&self, verb: &'static str, args: &[&str]) -> Option<Finished> {
        let finished = match self.banger.run_to_an_end(args) {
            Ok(finished) => finished,
            Err(hangs) => {
                self.problem(hangs);
                return None;
            }
        };
        self.note(|storm| {
            let (ok, all) = storm.commands.entry(verb).or_default();
            *all += 1;
            if finished.code == 0 {
                *ok += 1;
            } else {
                *storm.failures.entry(finished.error_code()).or_default() += 1;
            }
        });
        Some(finished)
    }

    /// A client: random commands on its VM until the storm is over.
    fn work(&self, name: &str, mut chance: Chance) -> Known {
        let mut known = Known::default();
        let mut count = 0;
        while !self.ended.load(Ordering::Acquire) {
            count += 1;
            if known.exists {
                self.one(name, &mut known, &mut chance, count);
            } else {
                self.make(name, &mut known);
            }
        }
        known
    }

    fn make(&self, name: &str, known: &mut Known) {
        let create = [&["vm", "create", "--name", name, "--vcpu", "1"], SMALL].concat();
        let Some(made) = self.run("create", &create) else {
            return;
        };
        // Also when the one before has made it and could not say so; unless it is just being deleted.
        let is_there = || {
            let shown = self.banger.run(&["vm", "show", name, "-o", "json"]);
            let shown: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
            shown["phase"]
                .as_str()
                .is_some_and(|phase| phase != "deleting")
        };
        if made.code == 0 || (made.error_code() == "name_taken" && is_there()) {
            *known = Known {
                exists: true,
                marks: vec![],
            };
        }
    }

    fn one(&self, name: &str, known: &mut Known, chance: &mut Chance, count: u64) {
        let wait = ["--wait", "reachable"];
        let (verb, args): (_, Vec<&str>) = match chance.below(16) {
            0..4 => return self.mark(name, known, &format!("{name}-{count}")),
            4..6 => return self.compare(name, known),
            6..8 => ("stop", vec!["vm", "stop", name]),
            8..10 => ("start", [&["vm", "start", name], &wait[..]].concat()),
            10..12 => ("restart", [&["vm", "restart", name], &wait[..]].concat()),
            12 => ("kill", vec!["vm", "kill", name]),
            13 => ("set", vec!["vm", "set", name, "--nat"]),
            14 => (
                "set",
                vec!["vm", "set", name, "--no-nat", "--memory", "272"],
            ),
            _ => ("delete", vec!["vm", "delete", name]),
        };
        let finished = self.run(verb, &args);
        if verb == "delete" {
            // Gone, or going, or not: the next create tells.
            *known = Known::default();
        } else if let Some(finished) = finished {
            self.assert_not_lost(name, &finished);
        }
    }

    fn assert_not_lost(&self, name: &str, finished: &Finished) {
        if finished.error_code() == "vm_not_found" {
            self.problem(format!("{name} is lost: {}", finished.stderr));
        }
    }

    /// Leaves a mark on both its disks.
    fn mark(&self, name: &str, known: &mut Known, mark: &str) {
        let line = format!("echo {mark} > /root/mark && echo {mark} > /mark && sync");
        let Some(finished) = self.run("exec", &["vm", "exec", name, "--", "sh", "-c", &line])
        else {
            known.marks.clear();
            return;
        };
        self.assert_not_lost(name, &finished);
        match finished.code {
            0 => known.marks = vec![mark.to_owned()],
            // It may have been left all the same, and so may none of those before.
            _ if known.marks.is_empty() => {}
            _ => known.marks.push(mark.to_owned()),
        }
    }

    /// What stands there is what was left there.
    fn compare(&self, name: &str, known: &Known) {
        let line = ["vm", "exec", name, "--", "cat", "/root/mark", "/mark"];
        let Some(finished) = self.run("exec", &line) else {
            return;
        };
        self.assert_not_lost(name, &finished);
        if finished.code == 0 && !known.marks.is_empty() {
            self.compare_marks(name, known, &finished.stdout);
        }
    }

    fn compare_marks(&self, name: &str, known: &Known, found: &str) {
        let marks: Vec<&str> = found.lines().collect();
        let expected = |mark: &&str| known.marks.iter().any(|known| known == mark);
        if marks.len() != 2 || !marks.iter().all(expected) {
            let expected = &known.marks;
            self.problem(format!(
                "{name} has {marks:?} on its disks, not {expected:?}"
            ));
        }
    }

    /// After the storm.
    fn look_around(&self, known: Vec<(String, Known)>) {
        let banger = self.banger;
        let vms = match settled(banger) {
            Ok(vms) => vms,
            Err(restless) => return self.problem(restless),
        };
        for (name, known) in &known {
            if !known.exists {
                continue;
            }
            if !vms.iter().any(|vm| vm["name"] == name.as_str()) {
                self.problem(format!("{name} is lost"));
                continue;
            }
            // It works, whatever was done to it, and its disks are its own.
            let start = ["vm", "restart", "--wait", "reachable", name];
            let started = banger.run(&start);
            if started.code != 0 {
                self.problem(format!("{name} does not start: {}", started.stderr));
            } else if !known.marks.is_empty() {
                self.compare(name, known);
            }
        }
        for problem in aftermath(banger, &vms) {
            self.problem(problem);
        }
    }
}
