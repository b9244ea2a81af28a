//! All processes of one session: a control group of its own where the guest has cgroups (version 2),
//! else the process group of its program.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use banger_guest_proto::SessionName;

/// The hierarchy's root; a version 2 one has `cgroup.controllers` there (cgroups(7)).
const HIERARCHY: &str = "/sys/fs/cgroup";

/// Where the sessions' groups are; `cgroup::is_ours` knows it, too.
const PARENT: &str = "/sys/fs/cgroup/banger.sessions";

/// A session's processes.
#[derive(Debug)]
pub(super) struct Group {
    folder: PathBuf,
}

impl Group {
    /// The group of that name; nothing is made.
    pub(super) fn of(name: &SessionName) -> Self {
        Self {
            folder: Path::new(PARENT).join(name.as_str()),
        }
    }

    /// Makes it where there can be one. What a process writes `0` to, to enter.
    pub(super) fn ensure(&self) -> Option<PathBuf> {
        let there = Path::new(HIERARCHY).join("cgroup.controllers").exists()
            && fs::create_dir_all(&self.folder).is_ok();
        there.then(|| self.folder.join("cgroup.procs"))
    }

    fn pids(&self) -> Option<Vec<Pid>> {
        let text = fs::read_to_string(self.folder.join("cgroup.procs")).ok()?;
        let pids = text.lines().filter_map(|line| line.parse().ok());
        Some(pids.filter_map(Pid::from_raw).collect())
    }

    /// Whether none but the program itself, which has ended and is not reaped yet, can be in it.
    /// Without a control group that is not known.
    pub(super) fn is_empty(&self, program: Pid) -> Option<bool> {
        Some(self.pids()?.iter().all(|pid| *pid == program))
    }

    /// Sends a signal to each; the program must not have been reaped.
    pub(super) fn signal(&self, program: Pid, signal: Signal) {
        match self.pids() {
            Some(pids) => {
                for pid in pids {
                    let _ = kill_process(pid, signal);
                }
                // It may not have entered yet.
                let _ = kill_process(program, signal);
            }
            None => {
                let _ = kill_process_group(program, signal);
            }
        }
    }

    /// Kills all; the program must not have been reaped.
    pub(super) fn kill(&self, program: Pid) {
        let _ = fs::write(self.folder.join("cgroup.kill"), "1");
        self.signal(program, Signal::KILL);
    }

    /// Removes it, when it is empty.
    pub(super) fn remove(&self) {
        let _ = rustix::fs::rmdir(&self.folder);
    }
}
