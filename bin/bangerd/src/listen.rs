//! The owner's socket: in a folder of the owner's alone, in place of a dead daemon's, for the owner's
//! uid alone.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use rustix::fs::{FlockOperation, flock};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tower::ServiceExt;

/// When an accept that failed is tried again.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// Being asked to end: the daemon does so when the connection that asked has its answer.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    asked: AtomicBool,
    answered: Notify,
}

impl Stop {
    /// Some connection asks for it.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// Resolves when whoever asked was answered.
    pub(crate) async fn answered(&self) {
        self.answered.notified().await;
    }

    fn connection_ended(&self) {
        if self.asked.load(Ordering::Acquire) {
            self.answered.notify_one();
        }
    }
}

/// Makes a folder for the owner alone, or checks that it is.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let metadata = fs::symlink_metadata(path)?;
    let ours = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != ours {
        return Err(io::Error::other(format!(
            "{} belongs to another user",
            path.display()
        )));
    }
    Ok(())
}

/// Takes the lock of the state directory; None: another daemon has it.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Listens at `path`. The lock is held, so a socket that is there is a dead daemon's.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    private_folder(path.parent().unwrap_or(Path::new("/")))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves each connection of the owner's until it ends.
pub(crate) async fn serve(listener: UnixListener, router: Router, stop: Arc<Stop>) {
    let owner = rustix::process::geteuid().as_raw();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Mostly too many open files: some are closed before long, and nobody must fill the log until then.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == owner => {}
            peer => {
                tracing::warn!(?peer, "a connection of another user was closed");
                continue;
            }
        }
        let (router, stop) = (router.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            connection(stream, router).await;
            stop.connection_ended();
        });
    }
}

async fn connection(stream: UnixStream, router: Router) {
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            router.clone().oneshot(request.map(axum::body::Body::new))
        });
    let builder = Builder::new();
    let served = builder
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}
