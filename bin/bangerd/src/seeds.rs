//! Work seeds that are missing or of an older format are made again, after a create from their image has ended:
//! never in its way.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use banger_core::{Digest, ImageName, OpId};
use banger_engine::OpState;
use banger_image::{HealError, SeedState};

use crate::state::Shared;

/// Images whose seeds were made again, or could not be, in this daemon's life.
#[derive(Debug, Default)]
pub(crate) struct Tried(Mutex<HashSet<Digest>>);

impl Tried {
    /// Whether this is the first time.
    fn is_first(&self, image: &Digest) -> bool {
        let mut tried = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tried.insert(image.clone())
    }
}

/// Looks at the image's seed once that create has ended, however it did.
pub(crate) fn heal_after(state: &Shared, create: &OpId, image: ImageName) {
    let Some(mut watch) = state.engine.watch(create) else {
        return;
    };
    let state = Shared::clone(state);
    tokio::spawn(async move {
        let ended = |view: &banger_engine::OperationView| !matches!(view.state, OpState::Running);
        if watch.wait_for(ended).await.is_ok() {
            // It is told in the log.
            let _ = tokio::task::spawn_blocking(move || heal(&state, &image)).await;
        }
    });
}

fn heal(state: &Shared, name: &ImageName) {
    let Some(image) = state.images.get(name) else {
        return;
    };
    let was = image.seed_state();
    if was == SeedState::Current || !state.seeds.is_first(&image.record.digest) {
        return;
    }
    match state.images.heal_seed(&image) {
        Ok(true) => tracing::info!(image = %name, ?was, "the work seed was made again"),
        Ok(false) | Err(HealError::Gone) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(image = %name, ?was, error, "the work seed could not be made again");
        }
    }
}
