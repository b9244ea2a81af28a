//! What is answered to whoever asks something of a VM, whatever it does just then. Pure and total; the
//! engine asks here, and `docs/phases.md` is made from it.

use crate::{ErrorCode, Phase};

/// What can be asked of a VM that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `list`, `show`, `stats`, `logs`.
    Look,
    /// `exec`, `ssh`, `cp`, `forward`, `ports`, `session`, `workspace`, `acp`: what needs the guest.
    UseGuest,
    /// `start`.
    Start,
    /// `stop`.
    Stop,
    /// `restart`.
    Restart,
    /// `kill`.
    Kill,
    /// `set --nat`, `set --no-nat`.
    SetNat,
    /// `set --memory`, `--vcpu`, `--disk-size`.
    SetSizes,
    /// `delete`.
    Delete,
    /// `prune`, for each VM.
    Prune,
    /// `create` and `run` with its name.
    CreateNamesake,
}

impl Verb {
    /// Every verb, for tables and exhaustive tests.
    pub const ALL: [Self; 11] = [
        Self::Look,
        Self::UseGuest,
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Kill,
        Self::SetNat,
        Self::SetSizes,
        Self::Delete,
        Self::Prune,
        Self::CreateNamesake,
    ];

    /// As people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Look => "`list`, `show`, `stats`, `logs`",
            Self::UseGuest => {
                "`exec`, `ssh`, `cp`, `forward`, `ports`, `session`, `workspace`, `acp`"
            }
            Self::Start => "`start`",
            Self::Stop => "`stop`",
            Self::Restart => "`restart`",
            Self::Kill => "`kill`",
            Self::SetNat => "`set --nat`",
            Self::SetSizes => "`set --memory --vcpu --disk-size`",
            Self::Delete => "`delete`",
            Self::Prune => "`prune`",
            Self::CreateNamesake => "`create --name` of it",
        }
    }
}

/// What is left of a VM's VMM, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VmmState {
    /// None lives.
    Gone,
    /// It runs.
    Runs,
    /// It was stopped by a signal.
    Paused,
}

impl VmmState {
    /// Every state, for exhaustive tests.
    pub const ALL: [Self; 3] = [Self::Gone, Self::Runs, Self::Paused];
}

/// Where a VM stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Situation {
    /// Its phase.
    pub phase: Phase,
    /// Its VMM.
    pub vmm: VmmState,
}

/// What becomes of a request when its turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Does,
    /// It is so already: success, and nothing is touched.
    Nothing,
    /// It is refused, and nothing is touched.
    Refused(ErrorCode),
}

/// When the turn of a request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// At once.
    Now,
    /// When what goes on has ended, in what that leads to.
    After,
    /// It ends what goes on: that fails with [`ErrorCode::Cancelled`], or is hastened.
    Interrupts,
}

/// The turn of a request that comes while the work of that phase goes on: of a running VM, that
/// somebody waits for its guest. Total.
#[must_use]
pub const fn turn(phase: Phase, verb: Verb) -> Turn {
    use Phase as P;
    use Verb as V;
    match (phase, verb) {
        (_, V::Look | V::CreateNamesake) => Turn::Now,
        (P::Stopped | P::Failed, _) => Turn::Now,
        // The guest is not asked by the VM's task: who needs it waits only for what comes up.
        (P::Running | P::Stopping | P::Deleting, V::UseGuest) => Turn::Now,
        (P::Provisioning | P::Starting, V::UseGuest) => Turn::After,
        (
            P::Provisioning | P::Starting | P::Running,
            V::Stop | V::Restart | V::Kill | V::Delete,
        ) => Turn::Interrupts,
        (
            P::Provisioning | P::Starting | P::Running,
            V::Start | V::SetNat | V::SetSizes | V::Prune,
        ) => Turn::After,
        // A clean shutdown is cut short by what does not want one.
        (P::Stopping, V::Kill | V::Delete) => Turn::Interrupts,
        (P::Stopping, V::Start | V::Stop | V::Restart | V::SetNat | V::SetSizes | V::Prune) => {
            Turn::After
        }
        (
            P::Deleting,
            V::Start
            | V::Stop
            | V::Restart
            | V::Kill
            | V::SetNat
            | V::SetSizes
            | V::Delete
            | V::Prune,
        ) => Turn::After,
    }
}

/// The answer to a request whose turn has come. Total.
#[must_use]
pub const fn answer(now: Situation, verb: Verb) -> Answer {
    use Answer::{Does, Nothing, Refused};
    use Phase as P;
    use Verb as V;
    use VmmState as S;
    match (now.phase, now.vmm, verb) {
        (_, _, V::Look) => Does,
        (_, _, V::CreateNamesake) => Refused(ErrorCode::NameTaken),

        (_, _, V::Delete) => Does,
        // What a failed delete has left is nothing to work with.
        (
            P::Deleting,
            _,
            V::Start | V::Stop | V::Restart | V::Kill | V::SetNat | V::SetSizes | V::Prune,
        ) => Refused(ErrorCode::VmBusy),

        (P::Running, S::Paused, V::UseGuest) => Refused(ErrorCode::VmPaused),
        (P::Running, S::Gone | S::Runs, V::UseGuest) => Does,
        (
            P::Provisioning | P::Stopped | P::Starting | P::Stopping | P::Failed | P::Deleting,
            _,
            V::UseGuest,
        ) => Refused(ErrorCode::VmNotRunning),

        (P::Running, S::Gone | S::Runs, V::Start) => Nothing,
        (P::Running, S::Paused, V::Start) => Does,
        (P::Provisioning | P::Stopped | P::Starting | P::Stopping | P::Failed, _, V::Start) => Does,

        (P::Stopped, _, V::Stop) => Nothing,
        (P::Provisioning | P::Starting | P::Running | P::Stopping | P::Failed, _, V::Stop) => Does,

        (
            P::Provisioning | P::Stopped | P::Starting | P::Running | P::Stopping | P::Failed,
            _,
            V::Restart,
        ) => Does,

        (P::Stopped, _, V::Kill) => Refused(ErrorCode::VmNotRunning),
        (P::Provisioning | P::Starting | P::Running | P::Stopping | P::Failed, _, V::Kill) => Does,

        (
            P::Provisioning | P::Stopped | P::Starting | P::Running | P::Stopping | P::Failed,
            _,
            V::SetNat,
        ) => Does,

        // Its disks may not be there yet.
        (P::Provisioning, _, V::SetSizes) => Refused(ErrorCode::VmBusy),
        (P::Stopped | P::Failed, S::Gone, V::SetSizes) => Does,
        (P::Stopped | P::Failed, S::Runs | S::Paused, V::SetSizes)
        | (P::Starting | P::Running | P::Stopping, _, V::SetSizes) => Refused(ErrorCode::VmRunning),

        (P::Stopped | P::Failed, _, V::Prune) => Does,
        (P::Provisioning | P::Starting | P::Running | P::Stopping, _, V::Prune) => {
            Refused(ErrorCode::VmRunning)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// A column of the table: a situation, and whether its work goes on.
    struct Column {
        title: &'static str,
        now: Situation,
        goes_on: bool,
    }

    fn columns() -> [Column; 10] {
        use Phase as P;
        use VmmState as S;
        [
            ("provisioning", P::Provisioning, S::Gone, true),
            ("starting", P::Starting, S::Gone, true),
            ("running, waited for", P::Running, S::Runs, true),
            ("running", P::Running, S::Runs, false),
            ("paused", P::Running, S::Paused, false),
            ("stopping", P::Stopping, S::Runs, true),
            ("stopped", P::Stopped, S::Gone, false),
            ("failed", P::Failed, S::Gone, false),
            ("failed, VMM lives", P::Failed, S::Runs, false),
            ("deleting", P::Deleting, S::Gone, true),
        ]
        .map(|(title, phase, vmm, goes_on)| Column {
            title,
            now: Situation { phase, vmm },
            goes_on,
        })
    }

    fn cell(column: &Column, verb: Verb) -> String {
        let turn = if column.goes_on {
            turn(column.now.phase, verb)
        } else {
            Turn::Now
        };
        match (turn, answer(column.now, verb)) {
            (Turn::After, _) => "waits".to_owned(),
            (Turn::Interrupts, Answer::Does) => "interrupts".to_owned(),
            (Turn::Now, Answer::Does) => "yes".to_owned(),
            (Turn::Now, Answer::Nothing) => "nothing to do".to_owned(),
            (Turn::Now, Answer::Refused(code)) => format!("`{}`", code.as_str()),
            // It would end what goes on for nothing.
            (Turn::Interrupts, other) => panic!("{verb:?} interrupts {:?}: {other:?}", column.now),
        }
    }

    const INTRODUCTION: &str = "\
# What a VM answers in which phase

Made from `crates/banger-core/src/admission.rs`, which the engine asks; `BANGER_UPDATE=1 cargo test -p banger-core` writes it anew.
Several VMs in one command are worked on side by side, each by its own row and column.

- **yes**: it is done. **nothing to do**: it is so already; success, and nothing is touched. A start of a VM that runs waits for its guest; one of a
  paused VM lets it go on, unless the host's disk is still nearly full (`vm_paused`). In the middle of a restart, `exec` waits for the next boot.
- **waits**: what goes on is let end; then the answer is that of the phase that it led to. After a delete that is `vm_not_found`
  (for another delete: success), or `vm_busy` when it failed: such a VM can only be deleted again.
- **interrupts**: what goes on is ended (`cancelled`; of a stop only the wait for the guest's shutdown), and this is done.
  Commands that interrupt do so also while somebody waits for the guest. A `stop` or `restart` with `--grace 0` interrupts a stop as well.
- A code, like `vm_running`: it is refused with that code, and nothing is touched.

What a running VM answers when the agent in its guest was killed: [a table of its own](looking-into-a-vm.md#a-guest-whose-agent-is-gone).

";

    fn document() -> String {
        let mut text = INTRODUCTION.to_owned();
        let columns = columns();
        let titles: Vec<&str> = columns.iter().map(|column| column.title).collect();
        let _ = writeln!(text, "| | {} |", titles.join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
        for verb in Verb::ALL {
            let cells: Vec<String> = columns.iter().map(|column| cell(column, verb)).collect();
            let _ = writeln!(text, "| {} | {} |", verb.as_str(), cells.join(" | "));
        }
        text
    }

    #[test]
    fn the_table_in_the_docs_is_this_one() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/phases.md");
        let ours = document();
        if std::env::var_os("BANGER_UPDATE").is_some() {
            std::fs::write(&path, &ours).unwrap();
        }
        let theirs = std::fs::read_to_string(path).unwrap();
        assert_eq!(theirs, ours, "BANGER_UPDATE=1 writes it anew");
    }

    #[test]
    fn a_stop_and_a_delete_are_never_refused_but_for_what_is_being_deleted() {
        for phase in Phase::ALL {
            for vmm in VmmState::ALL {
                let now = Situation { phase, vmm };
                assert_eq!(answer(now, Verb::Delete), Answer::Does, "{now:?}");
                let is_refused = matches!(answer(now, Verb::Stop), Answer::Refused(_));
                assert_eq!(is_refused, phase == Phase::Deleting, "{now:?}");
            }
        }
    }

    #[test]
    fn what_touches_disks_never_does_while_a_vmm_has_them() {
        for phase in Phase::ALL {
            for vmm in [VmmState::Runs, VmmState::Paused] {
                let sizes = answer(Situation { phase, vmm }, Verb::SetSizes);
                assert!(matches!(sizes, Answer::Refused(_)), "{phase:?} {vmm:?}");
            }
        }
    }
}
