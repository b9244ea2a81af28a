//! The one thing that is said to a running QEMU over its monitor (QMP): go on.
//!
//! QEMU stops its guest when a write meets a full disk (`werror=enospc`, its default for drives), and
//! waits; when it is told to go on, it does the write again, so the guest never sees an error.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A QEMU that a guest has taken over may send anything: no answer is longer.
const LONGEST: u64 = 64 << 10;
/// Nor do more events come between a question and its answer.
const MOST_EVENTS: usize = 100;

/// Why QEMU could not be told.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens, or the connection broke.
    #[error("QEMU's monitor does not answer")]
    Io(#[source] io::Error),
    /// What came is no answer.
    #[error("QEMU's monitor gave an answer that does not fit: {0}")]
    Unexpected(String),
}

/// Lets the guest go on when QEMU has stopped it because of an error of a drive. True: it had.
///
/// # Errors
/// See [`QmpError`]; also when QEMU has not answered within `patience`.
pub fn resume_guest(socket: &Path, patience: Duration) -> Result<bool, QmpError> {
    let mut monitor = Monitor::connect(socket, Instant::now() + patience)?;
    monitor.ask("qmp_capabilities")?;
    let status = monitor.ask("query-status")?;
    let stopped = status.get("status").and_then(Value::as_str) == Some("io-error");
    if stopped {
        monitor.ask("cont")?;
    }
    Ok(stopped)
}

struct Monitor {
    stream: BufReader<UnixStream>,
    deadline: Instant,
}

impl Monitor {
    fn connect(socket: &Path, deadline: Instant) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(socket).map_err(QmpError::Io)?;
        let mut monitor = Self {
            stream: BufReader::new(stream),
            deadline,
        };
        let greeting = monitor.read()?;
        match greeting.get("QMP") {
            Some(_) => Ok(monitor),
            None => Err(unexpected(&greeting.to_string())),
        }
    }

    /// Asks, and gives what is returned.
    fn ask(&mut self, command: &str) -> Result<Value, QmpError> {
        self.wait_at_most()?;
        let question = serde_json::json!({ "execute": command });
        let stream = self.stream.get_mut();
        writeln!(stream, "{question}").map_err(QmpError::Io)?;
        for _ in 0..MOST_EVENTS {
            let mut answer = self.read()?;
            if let Some(returned) = answer.get_mut("return") {
                return Ok(returned.take());
            }
            if answer.get("event").is_none() {
                return Err(unexpected(&answer.to_string()));
            }
        }
        Err(QmpError::Unexpected("nothing but events".into()))
    }

    fn read(&mut self) -> Result<Value, QmpError> {
        self.wait_at_most()?;
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(LONGEST);
        limited.read_until(b'\n', &mut line).map_err(QmpError::Io)?;
        if line.is_empty() {
            return Err(QmpError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|_| unexpected(&String::from_utf8_lossy(&line)))
    }

    /// Each read and write has what is left of the patience.
    fn wait_at_most(&mut self) -> Result<(), QmpError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(QmpError::Io(io::ErrorKind::TimedOut.into()));
        }
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(left)).map_err(QmpError::Io)?;
        stream.set_write_timeout(Some(left)).map_err(QmpError::Io)
    }
}

fn unexpected(answer: &str) -> QmpError {
    let shown = answer.chars().take(80).flat_map(char::escape_default);
    QmpError::Unexpected(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": []}}"#;
    const DONE: &str = r#"{"return": {}}"#;
    const EVENT: &str = r#"{"event": "STOP", "timestamp": {}}"#;
    const PATIENCE: Duration = Duration::from_secs(10);

    fn status(word: &str) -> String {
        format!(r#"{{"return": {{"status": "{word}", "running": false}}}}"#)
    }

    /// Answers with these lines: the first at once, one more for each question; gives the questions.
    fn monitor(lines: Vec<String>) -> (tempfile::TempDir, JoinHandle<Vec<String>>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("api")).unwrap();
        let told = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut writer = stream.try_clone().unwrap();
            let mut questions = BufReader::new(stream).lines();
            let mut asked = Vec::new();
            for line in lines {
                let _ = writeln!(writer, "{line}");
                match questions.next() {
                    Some(Ok(question)) => asked.push(question),
                    _ => break,
                }
            }
            asked
        });
        (dir, told)
    }

    fn resumed(lines: &[&str]) -> (Result<bool, QmpError>, usize) {
        let (dir, told) = monitor(lines.iter().map(ToString::to_string).collect());
        let result = resume_guest(&dir.path().join("api"), PATIENCE);
        (result, told.join().unwrap().len())
    }

    #[test]
    fn a_guest_that_met_a_full_disk_goes_on_and_no_other() {
        let (result, asked) = resumed(&[GREETING, DONE, &status("io-error"), DONE]);
        assert!(result.unwrap());
        assert_eq!(asked, 3);
        for word in ["running", "paused", "shutdown"] {
            let (result, asked) = resumed(&[GREETING, DONE, &status(word)]);
            assert!(!result.unwrap(), "{word}");
            assert_eq!(asked, 2, "{word}");
        }
    }

    #[test]
    fn events_come_in_between() {
        let with_event = format!("{EVENT}\n{}", status("io-error"));
        let (result, _) = resumed(&[GREETING, DONE, &with_event, DONE]);
        assert!(result.unwrap());
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let endless = EVENT.to_owned() + "\n" + &(EVENT.to_owned() + "\n").repeat(MOST_EVENTS);
        for lines in [
            &["nonsense"][..],
            &["{}"],
            &[""],
            &[GREETING, r#"{"error": {"class": "x"}}"#],
            &[GREETING, &endless],
            &[&"x".repeat(100_000)],
        ] {
            assert!(resumed(lines).0.is_err(), "{}", lines[0]);
        }
        assert!(resume_guest(Path::new("/nonexistent/api"), PATIENCE).is_err());
    }

    #[test]
    fn one_that_says_nothing_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let _silent = UnixListener::bind(dir.path().join("api")).unwrap();
        let result = resume_guest(&dir.path().join("api"), Duration::from_millis(50));
        assert!(result.is_err());
    }
}
