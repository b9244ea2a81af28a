//! Waiting for the guest, for its end, and for whatever comes in between.

use std::sync::Arc;
use std::time::Duration;

use banger_core::ErrorCode;

use crate::actor::{Actor, console_cause, died, reboots_on};
use crate::helper_wait::vmm_end;
use crate::lockup::{Hang, hangs};
use crate::operation::TaskContext;
use crate::ports::{ExitFacts, Failure, Farewell, GuestState, Progress};

/// How a wait for the guest ended.
pub(crate) enum Waited {
    /// It is that far.
    Reached,
    /// A stop or delete came first.
    Preempted,
    /// It did not get there.
    Failed(Failure),
}

/// What woke a wait.
enum Woken {
    Exit(Result<ExitFacts, Failure>),
    Wish,
    Paused,
    Deadline,
    Hangs(Hang),
    Guest(Result<(), Failure>),
}

impl Actor {
    /// Waits until the guest is reachable, and ready where that is asked for.
    pub(crate) async fn wait_for_guest(
        &mut self,
        state: GuestState,
        deadline: Duration,
        context: &TaskContext,
    ) -> Waited {
        let end = tokio::time::Instant::now() + deadline;
        let stages = [
            (GuestState::Reachable, "agent", "guest agent"),
            (GuestState::Ready, "ready", "services"),
        ];
        for (goal, key, title) in stages.into_iter().filter(|(goal, ..)| *goal <= state) {
            if self.view.borrow().readiness >= Some(goal) {
                continue;
            }
            context.begin(key, title);
            let waited = self.wait_for((goal, title), end, deadline, context).await;
            context.end(key, matches!(waited, Waited::Reached));
            match waited {
                Waited::Reached => self.view.send_modify(|view| view.readiness = Some(goal)),
                other => return other,
            }
        }
        Waited::Reached
    }

    async fn wait_for(
        &mut self,
        (goal, title): (GuestState, &str),
        end: tokio::time::Instant,
        deadline: Duration,
        context: &TaskContext,
    ) -> Waited {
        let vm = self.row.id.clone();
        let inner = Arc::clone(&self.inner);
        let ports = &inner.ports;
        let mut view = self.view.subscribe();
        // Who has been reached may have nothing to say. And one that boots silently twice is made so.
        let mut silence = goal == GuestState::Reachable;
        loop {
            if self.is_preempted() || context.cancelled() {
                return Waited::Preempted;
            }
            let woken = tokio::select! {
                biased;
                // Cancel-safe: the exit is a fact that stays true.
                exit = vmm_end(&inner, &vm) => Woken::Exit(exit),
                // Cancel-safe: a received wish is kept.
                Some(wish) = self.wishes.recv() => { self.pending.push_back(wish); Woken::Wish }
                () = tokio::time::sleep_until(end) => Woken::Deadline,
                // Cancel-safe: a view is looked at.
                Ok(_) = view.wait_for(|view| view.paused.is_some()) => Woken::Paused,
                // Cancel-safe: begins again.
                how = hangs(ports.drives.as_ref(), &vm, silence) => Woken::Hangs(how),
                // Cancel-safe: only observes.
                result = ports.guests.wait(&vm, goal) => Woken::Guest(result),
            };
            match woken {
                Woken::Wish => {}
                // The VM stays as it is and boots on when it is resumed.
                Woken::Paused => return Waited::Failed(self.view.borrow().stands_still()),
                Woken::Guest(Ok(())) => return Waited::Reached,
                Woken::Guest(Err(failure)) => {
                    // The connection broke: the guest is ending, or its backend has.
                    let exit = tokio::time::timeout_at(end, vmm_end(&inner, &vm)).await;
                    let Ok(Ok(exit)) = exit else {
                        let tail = ports.drives.console_tail(&vm).await;
                        let failure = in_stage(title, failure, &tail);
                        return Waited::Failed(self.fail_boot(failure).await);
                    };
                    if let Some(failure) = self.ended_early(exit, title).await {
                        return Waited::Failed(failure);
                    }
                }
                Woken::Exit(Ok(exit)) => {
                    if let Some(failure) = self.ended_early(exit, title).await {
                        return Waited::Failed(failure);
                    }
                }
                Woken::Hangs(how) => {
                    silence &= how != Hang::Silent;
                    if let Some(failure) = self.hung(&how, context).await {
                        return Waited::Failed(failure);
                    }
                }
                Woken::Exit(Err(failure)) => return Waited::Failed(failure),
                Woken::Deadline => {
                    let what = format!("the guest was not {} after {deadline:?}", word(goal));
                    let failure = Failure::new(ErrorCode::Timeout, what)
                        .hint("`banger vm logs` shows the console; `--timeout` waits longer");
                    let tail = ports.drives.console_tail(&vm).await;
                    let failure = in_stage(title, failure, &tail);
                    return Waited::Failed(self.fail_boot(failure).await);
                }
            }
        }
    }

    /// The guest has ended while it was waited for. None: it boots again, and the wait goes on.
    async fn ended_early(&mut self, exit: ExitFacts, title: &str) -> Option<Failure> {
        self.watching = false;
        let tail = &exit.console_tail;
        match exit.farewell {
            Some(Farewell::Poweroff) if !exit.backend_lost => {
                let stopped = self.stop(Duration::ZERO, None).await;
                let ended = || in_stage(title, powered_off(), tail);
                Some(stopped.err().unwrap_or_else(ended))
            }
            Some(Farewell::Reboot) if !exit.backend_lost => {
                if self.may_reboot() {
                    return self.reboot().await.err();
                }
                let failure = in_stage(title, reboots_on(), tail);
                Some(self.fail_boot(failure).await)
            }
            _ => {
                let failure = in_stage(title, died(&exit), &[]);
                Some(self.fail_boot(failure).await)
            }
        }
    }

    /// The guest hangs while it is waited for, and has nothing yet that could be lost. None: it boots again, and
    /// the wait goes on, to the deadline that it has.
    async fn hung(&mut self, how: &Hang, context: &TaskContext) -> Option<Failure> {
        context.line(&format!("the guest hung and boots again ({how})"));
        self.reboot().await.err()
    }

    async fn fail_boot(&mut self, failure: Failure) -> Failure {
        let failure = Failure {
            code: ErrorCode::BootFailed,
            ..failure
        };
        tracing::warn!(vm = %self.row.id, %failure, "a boot failed");
        self.fail(failure).await
    }

    /// A clean shutdown; true when the VMM has ended by itself within `grace`.
    pub(crate) async fn shut_down(&mut self, grace: Duration) -> bool {
        let vm = self.row.id.clone();
        let ports = self.inner.ports.clone();
        let end = tokio::time::Instant::now() + grace;
        let clean = async {
            // An agent that does not answer is waited for no longer than the grace.
            if ports.guests.shutdown(&vm).await.is_err() {
                std::future::pending::<()>().await;
            }
            ports.helper.wait_exit(&vm).await
        };
        let mut clean = std::pin::pin!(clean);
        loop {
            tokio::select! {
                biased;
                _ = &mut clean => return true,
                () = tokio::time::sleep_until(end) => return false,
                Some(wish) = self.wishes.recv() => {
                    let interrupts = wish.interrupts(self.row.phase, &self.row.spec);
                    self.pending.push_back(wish);
                    if interrupts {
                        return false;
                    }
                }
            }
        }
    }
}

/// A failure of a boot: in which stage it was, and what the guest said last.
fn in_stage(title: &str, mut failure: Failure, tail: &[String]) -> Failure {
    failure.message = format!("stage `{title}` failed: {}", failure.message);
    failure.causes.extend(console_cause(tail));
    failure
}

fn powered_off() -> Failure {
    Failure::new(
        ErrorCode::BootFailed,
        "the guest powered itself off before it was that far",
    )
    .hint("`banger vm logs` shows its console")
}

const fn word(state: GuestState) -> &'static str {
    match state {
        GuestState::Reachable => "reachable",
        GuestState::Ready => "ready",
    }
}
