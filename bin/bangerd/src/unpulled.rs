//! What a guest holds that was never pulled: asked while it runs, noted as it is stopped, so that whoever
//! deletes the VM later can be told without booting it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_guest::answer::{AnswerError, Bounds, answer};
use banger_guest::files::TransferError;
use banger_guest::{ExecRequest, GuestAddress};
use banger_workspace::{
    GuestRepo, PrepareError, Told, UNPULLED, Unpulled, WORKSPACES, home, told, workspaces,
};
use tokio::runtime::Handle;

/// The note, in the VM's folder.
const FILE: &str = "unpulled.json";
/// There from the first workspace on: guests without it are never asked.
const EXPECTED: &str = "workspaces";
/// How long a guest has to accept the question.
const HEARS: Duration = Duration::from_secs(10);
/// How long it is asked: it may be slow, and have much to look at. Afterwards it is not known.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long it is asked while somebody waits for its end.
const PATIENCE_AT_STOP: Duration = Duration::from_secs(10);
/// The most that it may tell, in bytes.
const MAX_TOLD: u64 = 8 << 20;

/// Why it is not known what a guest holds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKnown {
    /// Nobody answers there.
    #[error("its guest cannot be asked")]
    Unreachable(#[source] std::io::Error),
    /// The guest is slow, or has too much to look at.
    #[error("its guest did not answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// The answer broke off.
    #[error("its guest's answer broke off")]
    Answer(#[from] AnswerError),
    /// What looks there failed.
    #[error("its guest could not look: {0}")]
    Look(String),
    /// What was changed could not be compared with what was sent.
    #[error("what was changed could not be compared with what was sent")]
    Compare(#[from] PrepareError),
    /// Nobody asked before it ended.
    #[error("its guest ended without being asked")]
    NotAsked,
}

/// What the guest holds.
///
/// # Errors
/// It is not known.
pub(crate) async fn ask(
    address: &GuestAddress,
    patience: Duration,
) -> Result<Vec<Unpulled>, NotKnown> {
    let asked = tokio::time::timeout(patience, asked(address)).await;
    let asked = asked.unwrap_or(Err(NotKnown::Slow(patience)));
    if let Err(error) = &asked {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "what a guest holds that was never pulled is not known"
        );
    }
    asked
}

/// Notes that the VM is about to get a workspace.
///
/// # Errors
/// The VM's folder cannot be written.
pub(crate) fn expect(folder: &Path) -> std::io::Result<()> {
    fs::write(folder.join(EXPECTED), b"")
}

/// Whether the VM was ever given a workspace.
pub(crate) fn is_expected(folder: &Path) -> bool {
    folder.join(EXPECTED).exists()
}

async fn asked(address: &GuestAddress) -> Result<Vec<Unpulled>, NotKnown> {
    let Some(places) = workspaces(&run(address, WORKSPACES).await?) else {
        return Err(NotKnown::Look("it names no folders".to_owned()));
    };
    let at = |place: &PathBuf| place.clone();
    // Most often nothing has changed; git takes seconds to say so in a slow guest.
    let unchanged = in_each(address, places, at, |repo, _| repo.is_as_sent()).await?;
    if unchanged.into_iter().all(|unchanged| unchanged) {
        return Ok(vec![]);
    }
    let all = told(&run(address, UNPULLED).await?);
    let at = |told: &Told| told.path.clone().into();
    let mut found = in_each(address, all, at, |repo, told| repo.unpulled(told)).await?;
    found.retain(Unpulled::is_something);
    Ok(found)
}
/// What a script prints in the guest.
async fn run(address: &GuestAddress, script: &str) -> Result<Vec<u8>, NotKnown> {
    let dialled = tokio::time::timeout(HEARS, address.dial()).await;
    let dialled = dialled.map_err(|_| NotKnown::Slow(HEARS))?;
    let stream = dialled.map_err(|error| NotKnown::Unreachable(std::io::Error::other(error)))?;
    let stream = stream.into_std().map_err(NotKnown::Unreachable)?;
    let mut request = ExecRequest::own(["sh", "-c", script]);
    request.no_stdin = true;
    let bounds = Bounds {
        bytes: MAX_TOLD,
        silence: PATIENCE,
    };
    let mut output = vec![];
    let answer = answer(stream, &request, b"", &mut output, bounds).await?;
    if !answer.status.success() {
        let code = answer.status.exit_code();
        return Err(NotKnown::Look(format!("exit code {code}")));
    }
    Ok(output)
}

/// Does something in each of the workspaces.
async fn in_each<T: Send + 'static, R: Send + 'static>(
    address: &GuestAddress,
    all: Vec<T>,
    at: impl Fn(&T) -> PathBuf + Send + 'static,
    act: impl Fn(&GuestRepo<'_>, T) -> Result<R, PrepareError> + Send + 'static,
) -> Result<Vec<R>, NotKnown> {
    let (address, runtime) = (address.clone(), Handle::current());
    let acting = move || {
        let connect = || connect(&runtime, &address);
        let one = |it: T| {
            let repo = GuestRepo {
                connect: &connect,
                path: at(&it),
                home: home().to_owned(),
                progress: &|_| {},
            };
            act(&repo, it)
        };
        all.into_iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let acted = tokio::task::spawn_blocking(acting).await;
    Ok(acted.map_err(|error| NotKnown::Look(error.to_string()))??)
}

fn connect(runtime: &Handle, address: &GuestAddress) -> Result<UnixStream, TransferError> {
    let dialled = runtime.block_on(address.dial());
    let stream = dialled.map_err(std::io::Error::other);
    let stream = stream.and_then(tokio::net::UnixStream::into_std);
    let stream = stream.and_then(|stream| stream.set_nonblocking(false).map(|()| stream));
    stream.map_err(TransferError::Connection)
}

/// Notes it in the VM's folder, in place of what was noted before. Asks nobody who never had a workspace.
pub(crate) async fn note(folder: &Path, address: &GuestAddress) {
    if !is_expected(folder) {
        return;
    }
    match ask(address, PATIENCE_AT_STOP).await {
        Err(_) => forget(folder),
        Ok(found) => {
            let next = folder.join(".unpulled.json");
            let json = serde_json::to_vec(&found).unwrap_or_default();
            let written =
                fs::write(&next, json).and_then(|()| fs::rename(&next, folder.join(FILE)));
            if let Err(error) = written {
                tracing::warn!(%error, folder = %folder.display(), "what was never pulled could not be noted");
            }
        }
    }
}

/// The guest runs again: what was noted is not so any more.
pub(crate) fn forget(folder: &Path) {
    let _ = fs::remove_file(folder.join(FILE));
}

/// What was noted as the VM was stopped.
///
/// # Errors
/// Nothing was, or it cannot be read.
pub(crate) fn noted(folder: &Path) -> Result<Vec<Unpulled>, NotKnown> {
    let json = fs::read(folder.join(FILE)).map_err(|_| NotKnown::NotAsked)?;
    serde_json::from_slice(&json).map_err(|_| NotKnown::NotAsked)
}
