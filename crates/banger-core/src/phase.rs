//! The phases of a VM's life and the one function that moves between them.

use serde::{Deserialize, Serialize};

/// What the VM's task is doing. Durable; never a statement about what the host shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its drives are being made.
    Provisioning,
    /// Nothing runs; its drives are as they are.
    Stopped,
    /// The VMM is being started.
    Starting,
    /// The VMM runs.
    Running,
    /// The VMM is being ended and what it used taken down.
    Stopping,
    /// Something went wrong; what exists is kept for inspection.
    Failed,
    /// Everything is being removed.
    Deleting,
}

impl Phase {
    /// Every phase, for exhaustive tests.
    pub const ALL: [Self; 7] = [
        Self::Provisioning,
        Self::Stopped,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Failed,
        Self::Deleting,
    ];

    /// The word that people and JSON see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        }
    }

    /// The phase of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == word)
    }
}

/// What can happen to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Every drive is built and journalled.
    Provisioned,
    /// A start was accepted.
    StartAccepted,
    /// The VMM is up and its API answers.
    VmmUp,
    /// A step of the running plan failed, or its deadline passed.
    StepFailed,
    /// A stop was accepted, or the guest powered itself off.
    StopAccepted,
    /// The VMM ended without a farewell from the guest.
    VmmDied,
    /// The VMM and all it used are gone.
    TornDown,
    /// A delete was accepted.
    DeleteAccepted,
    /// The host started again since the VM last ran.
    HostRebooted,
}

impl Event {
    /// Every event, for exhaustive tests.
    pub const ALL: [Self; 9] = [
        Self::Provisioned,
        Self::StartAccepted,
        Self::VmmUp,
        Self::StepFailed,
        Self::StopAccepted,
        Self::VmmDied,
        Self::TornDown,
        Self::DeleteAccepted,
        Self::HostRebooted,
    ];
}

/// The event has no meaning in that phase; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} has no meaning while the VM is {}", phase.as_str())]
pub struct Rejected {
    /// The phase that stays.
    pub phase: Phase,
    /// The event that was refused.
    pub event: Event,
}

/// The phase after `event`. Total: each pair of phase and event is decided here and only here.
///
/// # Errors
/// [`Rejected`] when the event has no meaning in that phase.
pub fn step_phase(now: Phase, event: Event) -> Result<Phase, Rejected> {
    use Event as E;
    use Phase as P;
    let next = match (now, event) {
        (P::Provisioning, E::Provisioned) => P::Stopped,
        // What is missing of its drives, a start makes.
        (P::Provisioning, E::StopAccepted) => P::Stopped,
        (P::Provisioning | P::Stopped | P::Failed, E::StartAccepted) => P::Starting,
        (P::Starting, E::VmmUp) => P::Running,
        (P::Provisioning | P::Starting | P::Running | P::Stopping, E::StepFailed) => P::Failed,
        (P::Starting | P::Running, E::VmmDied) => P::Failed,
        (P::Starting | P::Running | P::Stopping | P::Failed, E::StopAccepted) => P::Stopping,
        (P::Stopping, E::VmmDied) => P::Stopping,
        (P::Stopping, E::TornDown) => P::Stopped,
        (P::Starting | P::Running | P::Stopping, E::HostRebooted) => P::Stopped,
        (P::Provisioning, E::HostRebooted) => P::Failed,
        (P::Stopped, E::HostRebooted) => P::Stopped,
        (P::Failed, E::HostRebooted) => P::Failed,
        (
            P::Provisioning | P::Stopped | P::Starting | P::Running | P::Stopping | P::Failed,
            E::DeleteAccepted,
        ) => P::Deleting,
        (P::Deleting, E::HostRebooted | E::DeleteAccepted | E::StepFailed | E::VmmDied) => {
            P::Deleting
        }
        (P::Provisioning, E::VmmUp | E::VmmDied | E::TornDown)
        | (
            P::Stopped,
            E::Provisioned | E::VmmUp | E::StepFailed | E::StopAccepted | E::VmmDied | E::TornDown,
        )
        | (P::Starting, E::Provisioned | E::StartAccepted | E::TornDown)
        | (P::Running, E::Provisioned | E::StartAccepted | E::VmmUp | E::TornDown)
        | (P::Stopping, E::Provisioned | E::StartAccepted | E::VmmUp)
        | (P::Failed, E::Provisioned | E::VmmUp | E::StepFailed | E::VmmDied | E::TornDown)
        | (
            P::Deleting,
            E::Provisioned | E::StartAccepted | E::VmmUp | E::StopAccepted | E::TornDown,
        ) => {
            return Err(Rejected { phase: now, event });
        }
    };
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delete_is_never_refused_and_never_left() {
        for phase in Phase::ALL {
            assert_eq!(
                step_phase(phase, Event::DeleteAccepted),
                Ok(Phase::Deleting)
            );
        }
        for event in Event::ALL {
            if let Ok(next) = step_phase(Phase::Deleting, event) {
                assert_eq!(next, Phase::Deleting, "{event:?}");
            }
        }
    }

    #[test]
    fn a_reboot_of_the_host_leaves_nothing_running() {
        for phase in Phase::ALL {
            let next = step_phase(phase, Event::HostRebooted).unwrap();
            assert!(
                matches!(next, Phase::Stopped | Phase::Failed | Phase::Deleting),
                "{phase:?}"
            );
        }
    }

    #[test]
    fn running_is_entered_only_from_starting() {
        for phase in Phase::ALL {
            for event in Event::ALL {
                if step_phase(phase, event) == Ok(Phase::Running) {
                    assert_eq!((phase, event), (Phase::Starting, Event::VmmUp));
                }
            }
        }
    }

    #[test]
    fn the_happy_path_comes_back_to_stopped() {
        let path = [
            Event::Provisioned,
            Event::StartAccepted,
            Event::VmmUp,
            Event::StopAccepted,
            Event::TornDown,
        ];
        let end = path.into_iter().try_fold(Phase::Provisioning, step_phase);
        assert_eq!(end, Ok(Phase::Stopped));
    }

    #[test]
    fn words_lead_back_to_phases() {
        for phase in Phase::ALL {
            assert_eq!(Phase::from_word(phase.as_str()), Some(phase));
        }
    }
}
