//! Consoles: of earlier boots, then of this one, and on as it grows.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use banger_api::LogQuery;
use bytes::Bytes;
use futures_util::stream;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use super::Problem;
use super::problem::Query;
use crate::state::Shared;
use crate::vm_folder;

const CHUNK: usize = 32 << 10;

/// A console being read.
struct Reading {
    files: Vec<PathBuf>,
    open: Option<File>,
    /// Told of each write to the last file, when it is followed.
    watch: Option<AsyncFd<OwnedFd>>,
}

/// A VM's console, as bytes.
#[utoipa::path(get, path = "/v1/vms/{ref}/logs", params(("ref" = String, Path,), ("follow" = Option<bool>, Query,)), responses((status = 200, content_type = "application/octet-stream")))]
pub(crate) async fn logs(
    State(state): State<Shared>,
    Path(reference): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Problem> {
    let vm = state.engine.resolve(&reference)?.id;
    let folder = state.vm_folder(&vm);
    let current = folder.join(vm_folder::CONSOLE);
    let watch = if query.follow {
        watch(&current).ok()
    } else {
        None
    };
    // Taken from the end.
    let reading = Reading {
        files: vec![current, folder.join("console.log")],
        open: None,
        watch,
    };
    let chunks = stream::unfold(reading, |mut reading| async move {
        let chunk = reading.next().await;
        chunk.map(|chunk| (Ok::<_, io::Error>(chunk), reading))
    });
    Ok((
        [(CONTENT_TYPE, "application/octet-stream")],
        Body::from_stream(chunks),
    )
        .into_response())
}

fn watch(path: &std::path::Path) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
    let inotify = inotify::init(flags)?;
    let ends = inotify::WatchFlags::DELETE_SELF
        | inotify::WatchFlags::MOVE_SELF
        | inotify::WatchFlags::ATTRIB;
    inotify::add_watch(&inotify, path, inotify::WatchFlags::MODIFY | ends)?;
    crate::adapters::watched(inotify)
}

impl Reading {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.open.is_none() {
                let path = self.files.pop()?;
                self.open = crate::adapters::open_console(&path).ok();
                continue;
            }
            let mut buffer = vec![0; CHUNK];
            let count = self
                .open
                .as_mut()
                .map_or(Ok(0), |file| file.read(&mut buffer))
                .unwrap_or(0);
            if count > 0 {
                buffer.truncate(count);
                return Some(buffer.into());
            }
            if !self.files.is_empty() {
                self.open = None;
                continue;
            }
            if !self.grows().await {
                return None;
            }
        }
    }

    /// Waits until the last file has changed; false when it is not followed, or is gone.
    async fn grows(&mut self) -> bool {
        let Some(watch) = &self.watch else {
            return false;
        };
        let is_gone = || {
            use std::os::unix::fs::MetadataExt;
            let links = self
                .open
                .as_ref()
                .and_then(|file| file.metadata().ok())
                .map_or(0, |m| m.nlink());
            links == 0
        };
        if is_gone() {
            return false;
        }
        let Ok(mut ready) = watch.readable().await else {
            return false;
        };
        let mut events = [0; 4096];
        while rustix::io::read(watch.get_ref(), &mut events).is_ok_and(|count| count > 0) {}
        ready.clear_ready();
        true
    }
}
