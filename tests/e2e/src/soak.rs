//! Sessions that write without end while their clients and the daemon are killed at random moments. Every
//! byte must reach the clients once, in order: what follows is known beforehand, and its digest is compared.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sha2::{Digest, Sha256};

use crate::chance::Chance;
use crate::{Banger, Client, Vm, until};

/// Where in the guest it is said that the sessions shall end.
const STOP: &str = "/run/soak-is-over";

/// How long a client may go on after that, on a busy machine.
const END: Duration = Duration::from_secs(120);

/// How long a session may bring nothing, while daemons die and on a busy machine.
const SILENCE: Duration = Duration::from_secs(300);

/// How it went.
#[derive(Debug, Default)]
pub struct Soak {
    /// Sessions that were followed to their ends.
    pub sessions: usize,
    /// Bytes of output that came, of all of them.
    pub bytes: usize,
    /// Clients that were attached.
    pub clients: usize,
    /// Clients that were killed.
    pub clients_killed: usize,
    /// Clients that were detached by a signal.
    pub clients_detached: usize,
    /// Clients that another one took over from.
    pub clients_taken_over: usize,
    /// Clients that did not get as far as a connection, because there was no daemon.
    pub clients_without_daemon: usize,
    /// How often the daemon was killed.
    pub daemons_killed: usize,
    /// What must not be.
    pub problems: Vec<String>,
}

impl Soak {
    /// The figures, on a few lines.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} sessions, {} bytes of output, all by {} clients: {} killed, {} detached, {} taken over from, {} without a daemon\n\
             daemons killed: {}\ngaps and other problems: {}",
            self.sessions,
            self.bytes,
            self.clients,
            self.clients_killed,
            self.clients_detached,
            self.clients_taken_over,
            self.clients_without_daemon,
            self.daemons_killed,
            self.problems.len()
        )
    }

    fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.bytes += other.bytes;
        self.clients += other.clients;
        self.clients_killed += other.clients_killed;
        self.clients_detached += other.clients_detached;
        self.clients_taken_over += other.clients_taken_over;
        self.clients_without_daemon += other.clients_without_daemon;
        self.daemons_killed += other.daemons_killed;
        self.problems.extend(other.problems);
    }
}

/// What a session prints: numbered lines, and how many there were.
fn script(number: usize) -> String {
    format!(
        "i=0; while [ ! -e {STOP} ]; do seq $i $((i+199)) | sed 's/^/{number} /'; i=$((i+200)); sleep 0.5; done; echo '{number} end' $i"
    )
}

/// What came of a session's output, compared with what must come.
#[derive(Debug)]
struct Account {
    number: usize,
    bytes: usize,
    lines: u64,
    ended: bool,
    pending: Vec<u8>,
    digest: Sha256,
    wrong: Vec<String>,
}

impl Account {
    fn new(number: usize) -> Self {
        Self {
            number,
            bytes: 0,
            lines: 0,
            ended: false,
            pending: vec![],
            digest: Sha256::new(),
            wrong: vec![],
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.digest.update(bytes);
        self.pending.extend(bytes);
        let whole = self.pending.iter().rposition(|byte| *byte == b'\n');
        let Some(whole) = whole else { return };
        let rest = self.pending.split_off(whole + 1);
        for line in std::mem::replace(&mut self.pending, rest).split_inclusive(|b| *b == b'\n') {
            let (number, next) = (self.number, self.lines);
            if line == format!("{number} {next}\n").as_bytes() && !self.ended {
                self.lines += 1;
            } else if line == format!("{number} end {next}\n").as_bytes() && !self.ended {
                self.ended = true;
            } else if self.wrong.len() < 5 {
                let line = String::from_utf8_lossy(line).escape_debug().to_string();
                self.wrong
                    .push(format!("session {number}: `{line}` instead of line {next}"));
            }
        }
    }

    /// What is wrong at the session's end, of which the guest says how many bytes it was.
    fn close(mut self, length: Option<u64>) -> (usize, Vec<String>) {
        let number = self.number;
        let mut expected = Sha256::new();
        for line in 0..self.lines {
            expected.update(format!("{number} {line}\n"));
        }
        expected.update(format!("{number} end {}\n", self.lines));
        if !self.ended || expected.finalize() != self.digest.finalize() {
            let what = format!("session {number}: what came is not what was written");
            self.wrong.push(what);
        }
        if length != Some(self.bytes as u64) {
            let what = format!("session {number}: {} bytes came of {length:?}", self.bytes);
            self.wrong.push(what);
        }
        (self.bytes, self.wrong)
    }
}

/// Follows a session to its end, through clients that end at random moments.
fn follow(banger: &Banger, vm: &Vm, number: usize, ends: &AtomicBool, mut chance: Chance) -> Soak {
    let (mut soak, mut account) = (Soak::default(), Account::new(number));
    let name = format!("s{number}");
    let attach = |from: usize, more: &[&str]| {
        let from = from.to_string();
        let base = ["vm", "session", "attach", &vm.name, &name, "--from", &from];
        Client::start(banger, &[&base[..], more].concat())
    };
    let (mut heard, mut ended_at) = (Instant::now(), None::<Instant>);
    while !account.ended {
        if ends.load(Ordering::Acquire) {
            ended_at.get_or_insert_with(Instant::now);
        }
        let late = ended_at.is_some_and(|since| since.elapsed() > END);
        if late || heard.elapsed() > SILENCE {
            let what = format!("session {number} did not come to its end");
            soak.problems.push(what);
            break;
        }
        let mut client = attach(account.bytes, &[]);
        soak.clients += 1;
        let (bytes, closed) = client.hear_for(Duration::from_millis(200 + chance.below(5000)));
        account.take(&bytes);
        if !bytes.is_empty() {
            heard = Instant::now();
        }
        let finished = if closed {
            let (bytes, finished) = client.end_with_bytes();
            account.take(&bytes);
            if !account.ended {
                soak.clients_without_daemon += 1;
            }
            Some(finished)
        } else {
            match chance.below(4) {
                0 => {
                    client.signal(Signal::TERM);
                    let (bytes, finished) = client.end_with_bytes();
                    account.take(&bytes);
                    soak.clients_detached += 1;
                    Some(finished)
                }
                1 => {
                    let mut other = attach(account.bytes, &["--take-over", "--no-stdin"]);
                    let moment = Duration::from_millis(50);
                    loop {
                        let (bytes, closed) = client.hear_for(moment);
                        account.take(&bytes);
                        if closed {
                            break;
                        }
                        if other.hear_for(moment).1 {
                            // It did not get there: the daemon was gone.
                            client.signal(Signal::TERM);
                            break;
                        }
                    }
                    let (bytes, finished) = client.end_with_bytes();
                    account.take(&bytes);
                    soak.clients += 1;
                    soak.clients_taken_over += 1;
                    // What the other one had is what the next one begins with.
                    drop(other.kill());
                    Some(finished)
                }
                _ => {
                    account.take(&client.kill());
                    soak.clients_killed += 1;
                    None
                }
            }
        };
        let lost = finished.filter(|finished| finished.stderr.contains("are lost"));
        if let Some(lost) = lost {
            let what = format!("session {number}: {}", lost.stderr.trim());
            soak.problems.push(what);
        }
    }
    let mut length = None;
    until("the session is shown", END, || {
        // The daemon may be killed just then.
        let show = ["vm", "session", "show", &vm.name, &name, "-o", "json"];
        let shown = serde_json::from_str::<serde_json::Value>(&banger.run(&show).stdout);
        length = shown.ok().and_then(|shown| shown["log"]["end"].as_u64());
        length.is_some()
    });
    let (bytes, wrong) = account.close(length);
    soak.problems.extend(wrong);
    soak.bytes = bytes;
    soak.sessions = 1;
    soak
}

fn kill_daemons(banger: &Banger, ends: &AtomicBool, mut chance: Chance) -> usize {
    let mut killed = 0;
    while !ends.load(Ordering::Acquire) {
        let next = Instant::now() + Duration::from_millis(1000 + chance.below(5000));
        while Instant::now() < next && !ends.load(Ordering::Acquire) {
            let pause = rustix::time::Timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            };
            let _ = rustix::event::poll(&mut [], Some(&pause));
        }
        banger.kill_daemon();
        killed += 1;
    }
    killed
}

/// So many sessions in a VM, for so long.
///
/// # Panics
/// When sessions cannot be started at all, or the machinery fails.
#[must_use]
pub fn soak(banger: &Banger, vm: &Vm, sessions: usize, time: Duration, seed: u64) -> Soak {
    vm.sh(&format!("rm -f {STOP}"));
    for number in 0..sessions {
        let (name, script) = (format!("s{number}"), script(number));
        let base = ["vm", "session", "start", &vm.name, "--name", &name];
        let more = ["--stdin-mode", "pipe", "--", "sh", "-c", &script];
        banger.ok(&[&base[..], &more].concat());
    }
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mix =
            |number: usize| Chance::new(seed.wrapping_mul(31).wrapping_add(number as u64 + 1));
        let ends = &ends;
        let following: Vec<_> = (0..sessions)
            .map(|number| scope.spawn(move || follow(banger, vm, number, ends, mix(number))))
            .collect();
        let killing = scope.spawn(move || kill_daemons(banger, ends, mix(sessions)));
        let deadline = Instant::now() + time;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let pause = rustix::time::Timespec::try_from(left.min(Duration::from_secs(1)));
            let _ = rustix::event::poll(&mut [], pause.ok().as_ref());
        }
        let mut soak = Soak::default();
        ends.store(true, Ordering::Release);
        match killing.join() {
            Ok(killed) => soak.daemons_killed = killed,
            Err(_) => soak
                .problems
                .push("the daemon could not be killed".to_owned()),
        }
        vm.sh(&format!("touch {STOP}"));
        for session in following {
            match session.join() {
                Ok(one) => soak.add(one),
                Err(_) => soak.problems.push("a client hung or failed".to_owned()),
            }
        }
        soak
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_finds_what_is_missing_twice_or_cut() {
        let whole = b"7 0\n7 1\n7 2\n7 end 3\n";
        let wrong = |pieces: &[&[u8]], length| {
            let mut account = Account::new(7);
            pieces.iter().for_each(|piece| account.take(piece));
            account.close(length).1.len()
        };
        assert_eq!(wrong(&[&whole[..6], &whole[6..]], Some(20)), 0);
        assert_eq!(wrong(&[whole], Some(21)), 1);
        assert!(wrong(&[&whole[..4], &whole[8..]], Some(16)) > 0, "missing");
        assert!(wrong(&[&whole[..8], &whole[4..]], Some(24)) > 0, "twice");
        assert!(wrong(&[&whole[..19]], Some(19)) > 0, "cut");
    }
}
