//! Signals as bytes on a pipe, for the poll loop.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::JoinHandle;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Watches for signals while it lives. tokio's registration is used, because it chains to whatever
/// else the process watches; the handlers stay, as tokio documents.
#[derive(Debug)]
pub struct Signals {
    pipe: PipeReader,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Starts to watch; with a terminal also for changes of its size.
    ///
    /// # Errors
    /// No handler, pipe or thread could be made.
    pub fn watch(tty: bool) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let (pipe, writer) = io::pipe()?;
        let (stop, stopped) = oneshot::channel();
        // Registered here, not in the thread: a signal that comes next is already caught.
        let guard = runtime.enter();
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        let winch = tty.then(SignalKind::window_change);
        let watched = kinds
            .into_iter()
            .chain(winch)
            .map(|kind| Ok((kind, signal(kind)?)))
            .collect::<io::Result<Vec<_>>>()?;
        drop(guard);
        let thread = std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    for (kind, stream) in watched {
                        let writer = writer.try_clone();
                        tokio::spawn(forward(kind, stream, writer));
                    }
                    let _ = stopped.await;
                });
            })?;
        Ok(Self {
            pipe,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Readable when a signal has come.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// The numbers of those that came. Only called when [`fd`](Self::fd) is readable.
    pub(crate) fn take(&self) -> Vec<i32> {
        let mut numbers = [0; 64];
        let count = rustix::io::read(&self.pipe, &mut numbers).unwrap_or(0);
        numbers[..count].iter().map(|n| i32::from(*n)).collect()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn forward(
    kind: SignalKind,
    mut stream: tokio::signal::unix::Signal,
    writer: io::Result<PipeWriter>,
) {
    let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
    let Ok(mut writer) = writer else { return };
    while stream.recv().await.is_some() {
        if writer.write_all(&[number]).is_err() {
            return;
        }
    }
}

/// Whether the number is that of SIGWINCH.
pub(crate) fn is_resize(number: i32) -> bool {
    number == Signal::WINCH.as_raw()
}

/// Whether the number ends a call that has a terminal.
pub(crate) fn ends_a_terminal(number: i32) -> bool {
    number == Signal::TERM.as_raw() || number == Signal::HUP.as_raw()
}
