//! Waiting for a helper that is away: nobody asked for what a guest does by itself, so nobody is there to be told that
//! it could not be followed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use banger_core::{ErrorCode, VmId};
use tokio::time::Instant;

use crate::actor::Actor;
use crate::inner::Inner;
use crate::ports::{ExitFacts, Failure};

/// How often a helper that is away is looked for.
const PACE: Duration = Duration::from_millis(200);

/// How many wait for the helper.
#[derive(Debug, Default)]
pub(crate) struct HelperWanted(AtomicUsize);

/// One who waits, for as long as the value lives.
struct Waiting<'a>(&'a HelperWanted);

impl HelperWanted {
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }

    fn wait(&self) -> Waiting<'_> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Waiting(self)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn is_away(failure: &Failure) -> bool {
    failure.code == ErrorCode::HelperUnavailable
}

/// The end of a VM's VMM, also when the helper is away in between. Cancel-safe: the end is a fact that stays true.
pub(crate) async fn vmm_end(inner: &Inner, vm: &VmId) -> Result<ExitFacts, Failure> {
    let mut waiting = None;
    loop {
        match inner.ports.helper.wait_exit(vm).await {
            Err(failure) if is_away(&failure) => {
                if waiting.is_none() {
                    tracing::warn!(%vm, %failure, "the VMM is not watched: the helper is away");
                }
                waiting.get_or_insert_with(|| inner.helper_wanted.wait());
                tokio::time::sleep(PACE).await;
            }
            end => return end,
        }
    }
}

impl Actor {
    /// After `failure` of something that nobody asked for: whether it was the helper that was away and it is back, so
    /// that it is worth to be done again. A stop or a delete that comes meanwhile ends the wait.
    pub(crate) async fn outwaits(&mut self, failure: &Failure, end: Instant) -> bool {
        if !is_away(failure) {
            return false;
        }
        tracing::warn!(vm = %self.row.id, %failure, "waits for the helper");
        let inner = std::sync::Arc::clone(&self.inner);
        let _waiting = inner.helper_wanted.wait();
        while Instant::now() < end && !self.is_preempted() {
            match inner.ports.helper.facts().await {
                Err(failure) if is_away(&failure) => tokio::time::sleep(PACE).await,
                _ => return true,
            }
        }
        false
    }

    /// Until when the helper is waited for, by something that is begun now.
    pub(crate) fn patience(&self) -> Instant {
        Instant::now() + self.inner.config.helper_patience
    }
}
