//! A `banger` command that goes on while a test talks with it. Every wait has an end.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Banger, Finished};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Output that a thread reads, piece by piece; so much of it is ahead of the test.
#[derive(Debug)]
struct Heard {
    pieces: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Heard {
    fn from(mut source: impl Read + Send + 'static) -> Self {
        let (tell, pieces): (SyncSender<Vec<u8>>, _) = sync_channel(16);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                if tell.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            pieces,
            seen: vec![],
        }
    }

    /// Takes the next piece in; whether there was one.
    fn more(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let piece = self.pieces.recv_timeout(left);
        piece.is_ok_and(|piece| {
            self.seen.extend(piece);
            true
        })
    }

    fn rest(&mut self, deadline: Instant) -> Vec<u8> {
        while self.more(deadline) {}
        std::mem::take(&mut self.seen)
    }
}

/// The command.
#[derive(Debug)]
pub struct Client {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Heard,
    stderr: Heard,
}

impl Client {
    /// Starts `banger ARGS`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<S: AsRef<OsStr> + std::fmt::Debug>(banger: &Banger, args: &[S]) -> Self {
        Self::from(banger.command(args))
    }

    /// Sends bytes to its standard input.
    ///
    /// # Panics
    /// When it takes none.
    pub fn say(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        if let Err(error) = stdin.write_all(bytes) {
            self.give_up(&format!("a taker of its input ({error})"));
        }
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Its standard input, for a thread.
    ///
    /// # Panics
    /// When it was ended or taken.
    pub fn take_input(&mut self) -> ChildStdin {
        self.stdin.take().expect("its input is open")
    }

    /// Reads its standard output up to a text, and gives what came until its end.
    ///
    /// # Panics
    /// When the text does not come in time, or the command ends before.
    pub fn hear(&mut self, text: &str) -> String {
        let heard = hear(&mut self.stdout, text);
        heard.unwrap_or_else(|| self.give_up(&format!("`{text}`")))
    }

    /// The same of its standard error.
    ///
    /// # Panics
    /// When the text does not come in time, or the command ends before.
    pub fn hear_note(&mut self, text: &str) -> String {
        let heard = hear(&mut self.stderr, text);
        heard.unwrap_or_else(|| self.give_up(&format!("`{text}` in its standard error")))
    }

    /// Reads that many bytes of its standard output.
    ///
    /// # Panics
    /// When they do not come in time, or the command ends before.
    pub fn hear_bytes(&mut self, count: usize) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        while self.stdout.seen.len() < count {
            if !self.stdout.more(deadline) {
                self.give_up(&format!("{count} bytes"));
            }
        }
        let rest = self.stdout.seen.split_off(count);
        std::mem::replace(&mut self.stdout.seen, rest)
    }

    /// What it prints within that time, and whether it has closed its output.
    pub fn hear_for(&mut self, time: Duration) -> (Vec<u8>, bool) {
        let deadline = Instant::now() + time;
        while self.stdout.more(deadline) {}
        let ended = matches!(
            self.stdout
                .pieces
                .try_recv()
                .map(|piece| self.stdout.seen.extend(piece)),
            Err(TryRecvError::Disconnected)
        );
        (std::mem::take(&mut self.stdout.seen), ended)
    }

    fn give_up(&mut self, what: &str) -> ! {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let soon = Instant::now() + Duration::from_secs(1);
        let (out, err) = (self.stdout.rest(soon), self.stderr.rest(soon));
        let (out, err) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
        let out: String = out.chars().take(4000).collect();
        panic!(
            "{}: no {what} within {PATIENCE:?} or before its end\n{out}\n{err}",
            self.what
        )
    }

    /// Waits for its end; gives what was not heard yet.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn end(mut self) -> Finished {
        self.end_input();
        let (bytes, finished) = self.end_with_bytes();
        let stdout = String::from_utf8_lossy(&bytes).into_owned();
        Finished { stdout, ..finished }
    }

    /// The same with its output as bytes; its input stays as it is.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn end_with_bytes(&mut self) -> (Vec<u8>, Finished) {
        let deadline = Instant::now() + PATIENCE;
        let stdout = self.stdout.rest(deadline);
        let stderr = self.stderr.rest(deadline);
        let status = loop {
            match self.child.try_wait().expect("waited for") {
                Some(status) => break status,
                None if Instant::now() > deadline => self.give_up("end"),
                None => pause(),
            }
        };
        let output = std::process::Output {
            status,
            stdout: vec![],
            stderr,
        };
        (stdout, output.into())
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is not there.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), signal).expect("it is there");
    }

    /// Kills it, and gives what it had printed and was not heard yet.
    ///
    /// # Panics
    /// When it is not there.
    pub fn kill(mut self) -> Vec<u8> {
        self.signal(Signal::KILL);
        self.child.wait().expect("waited for");
        self.stdout.rest(Instant::now() + PATIENCE)
    }
}

impl From<Command> for Client {
    fn from(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        Self {
            what: format!("{command:?}"),
            stdin: child.stdin.take(),
            stdout: Heard::from(child.stdout.take().expect("piped")),
            stderr: Heard::from(child.stderr.take().expect("piped")),
            child,
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hear(source: &mut Heard, text: &str) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = source.seen.windows(text.len());
        if let Some(at) = found.into_iter().position(|part| part == text.as_bytes()) {
            let rest = source.seen.split_off(at + text.len());
            let heard = std::mem::replace(&mut source.seen, rest);
            return Some(String::from_utf8_lossy(&heard).into_owned());
        }
        if !source.more(deadline) {
            return None;
        }
    }
}

fn pause() {
    let pause = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    let _ = rustix::event::poll(&mut [], Some(&pause));
}
