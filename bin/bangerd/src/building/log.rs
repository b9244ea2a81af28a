//! What a build says: all of it in a file, the latest line as progress, the last ones for whoever is told that it
//! failed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use banger_engine::ports::Progress;
use tokio::io::AsyncWrite;

/// The most that the file takes, in bytes: a step may say anything.
const MOST: u64 = 256 << 20;
/// How many lines are told of a failed step.
const TAIL: usize = 8;
/// The most of a line, in bytes.
const LINE: usize = 4 << 10;

/// The log of one build.
#[derive(Debug)]
pub(super) struct Log {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    written: u64,
    /// A line that has not ended.
    open: Vec<u8>,
    tail: VecDeque<String>,
}

impl Log {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let inner = Inner {
            file: File::create(path)?,
            written: 0,
            open: vec![],
            tail: VecDeque::new(),
        };
        Ok(Self {
            inner: Mutex::new(inner),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of banger's own; what a step says after it is another tail.
    pub(super) fn line(&self, text: &str) {
        let mut inner = self.lock();
        inner.write(format!("{text}\n").as_bytes());
        inner.tail.clear();
        inner.open.clear();
    }

    /// What a step says; the lines that have ended are shown.
    pub(super) fn said(&self, bytes: &[u8], progress: &dyn Progress) {
        let mut inner = self.lock();
        inner.write(bytes);
        let mut latest = None;
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => latest = inner.end_line().or(latest),
                byte if inner.open.len() < LINE => inner.open.push(*byte),
                _ => {}
            }
        }
        drop(inner);
        if let Some(line) = latest {
            let short: String = line.chars().take(100).collect();
            progress.line(&short);
        }
    }

    /// The last lines that a step has said.
    pub(super) fn tail(&self) -> Vec<String> {
        let mut inner = self.lock();
        inner.end_line();
        inner.tail.iter().cloned().collect()
    }
}

impl Inner {
    /// A log that cannot be written is no reason to fail.
    fn write(&mut self, bytes: &[u8]) {
        if self.written < MOST {
            self.written += bytes.len() as u64;
            let _ = self.file.write_all(bytes);
        }
    }

    fn end_line(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&self.open);
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        self.open.clear();
        if line.trim().is_empty() {
            return None;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.clone());
        Some(line)
    }
}

/// The log as a place to write to.
pub(super) struct LogWriter<'a> {
    pub(super) log: &'a Log,
    pub(super) progress: &'a dyn Progress,
}

impl AsyncWrite for LogWriter<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.log.said(bytes, self.progress);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Progress for Seen {
        fn line(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
        fn part(&self, _: &str) {}
        fn cancelled(&self) -> bool {
            false
        }
    }

    #[test]
    fn all_is_kept_and_the_last_lines_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (log, seen) = (Log::create(&path).unwrap(), Seen::default());
        log.said(b"of another step\n", &seen);
        log.line("[1/2] RUN x");
        for number in 0..20 {
            log.said(format!("line {number}\n\x1b[1m").as_bytes(), &seen);
        }
        log.said(b"no end", &seen);
        let tail = log.tail();
        assert_eq!(tail.len(), TAIL);
        assert_eq!(tail.last().unwrap(), "[1mno end");
        log.said(&vec![b'x'; 3 * LINE], &seen);
        assert!(log.tail().last().unwrap().len() <= LINE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("of another step\n[1/2] RUN x\nline 0\n"));
        assert_eq!(seen.0.lock().unwrap().len(), 21);
    }
}
