//! Blobs from a server into the content store, some at a time, on a thread of their own; whoever uses them gets each
//! as soon as it is there.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::blobs::{BlobStore, Partial};
use crate::error::PullError;
use crate::manifest::Descriptor;
use crate::registry::Registry;
use crate::remote::Remote;
use crate::watch::Watch;

/// Blobs on their way at once.
const AT_ONCE: usize = 3;
/// How often progress is told, and whether the pull is still wanted is asked.
const TICK: Duration = Duration::from_millis(200);
/// How often a blob that another pull fetches is looked for.
const SHARE_TICK: Duration = Duration::from_millis(100);

/// Where blobs come from.
#[derive(Debug)]
pub(crate) enum From {
    Registry(Box<Registry>),
    Remote(Remote),
}

impl From {
    async fn blob(
        &self,
        blob: &Descriptor,
        partial: &mut Partial,
        received: &AtomicU64,
    ) -> Result<(), PullError> {
        match self {
            Self::Registry(registry) => registry.blob(blob, partial, received).await,
            Self::Remote(remote) => remote.blob(blob, partial, received).await,
        }
    }
}

type Arrival = (usize, Result<File, PullError>);

/// Fetching. Dropping it ends it; what was fetched stays for the next time.
#[expect(missing_debug_implementations, reason = "a thread, and what it sends")]
pub struct Fetching {
    arrivals: Receiver<Arrival>,
    /// Those that came before their turn.
    early: Vec<Option<Result<File, PullError>>>,
    received: Arc<AtomicU64>,
    total: u64,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fetching {
    /// Begins. The server's connections belong to the runtime.
    pub(crate) fn start(
        runtime: tokio::runtime::Runtime,
        from: From,
        store: BlobStore,
        blobs: Vec<Descriptor>,
    ) -> Self {
        let (sender, arrivals) = channel();
        let (stop, stopped) = oneshot::channel();
        let received = Arc::new(AtomicU64::new(0));
        let total = blobs
            .iter()
            .map(|blob| blob.size)
            .fold(0, u64::saturating_add);
        let early = blobs.iter().map(|_| None).collect();
        let counter = Arc::clone(&received);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = fetch_all(Arc::new(from), store, blobs, counter, sender) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self {
            arrivals,
            early,
            received,
            total,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The blob of that number, as soon as it is there and was checked. Each can be had once.
    ///
    /// # Errors
    /// One of them could not be fetched, or nobody wants them any more.
    pub fn blob(&mut self, number: usize, watch: &dyn Watch) -> Result<File, PullError> {
        loop {
            if let Some(arrived) = self.early[number].take() {
                return arrived;
            }
            if watch.cancelled() {
                return Err(PullError::Cancelled);
            }
            match self.arrivals.recv_timeout(TICK) {
                Ok((_, Err(error))) => return Err(error),
                Ok((number, arrived)) => self.early[number] = Some(arrived),
                Err(RecvTimeoutError::Timeout) => {
                    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                    let received = self.received.load(Ordering::Relaxed);
                    watch.line(&format!(
                        "{:.1} of {:.1} MiB",
                        mib(received),
                        mib(self.total)
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(PullError::Cancelled),
            }
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn fetch_all(
    from: Arc<From>,
    store: BlobStore,
    blobs: Vec<Descriptor>,
    received: Arc<AtomicU64>,
    sender: Sender<Arrival>,
) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (number, blob) in blobs.into_iter().enumerate() {
        let (from, store, received) = (Arc::clone(&from), store.clone(), Arc::clone(&received));
        let (turns, sender) = (Arc::clone(&turns), sender.clone());
        tasks.spawn(async move {
            let Ok(_turn) = turns.acquire().await else {
                return;
            };
            let fetched = fetch(&from, &store, &blob, &received).await;
            // Nobody may want it any more.
            let _ = sender.send((number, fetched));
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// One blob: from the store, from whoever fetches it already, or from the server.
async fn fetch(
    from: &From,
    store: &BlobStore,
    blob: &Descriptor,
    received: &AtomicU64,
) -> Result<File, PullError> {
    loop {
        if let Some(file) = store.get(&blob.digest, blob.size) {
            received.fetch_add(blob.size, Ordering::Relaxed);
            return Ok(file);
        }
        let Some(mut partial) = store.begin(&blob.digest)? else {
            tokio::time::sleep(SHARE_TICK).await;
            continue;
        };
        if store.get(&blob.digest, blob.size).is_some() {
            partial.discard();
            continue;
        }
        return match from.blob(blob, &mut partial, received).await {
            Ok(()) => partial.finish(),
            Err(error) => {
                if error.is_wrong_content() {
                    partial.discard();
                }
                Err(error)
            }
        };
    }
}
