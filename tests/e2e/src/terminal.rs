//! A terminal that a person would sit at: the test's end of a pseudoterminal (pty(7)).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A program that runs on a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    /// The program, or what started it there.
    pub child: Child,
    seen: String,
}

impl Terminal {
    /// Starts a command as the leader of a new session with the terminal, of that many rows and columns.
    ///
    /// # Panics
    /// When there are no pseudoterminals, or the command cannot be started.
    #[must_use]
    pub fn start(command: &Command, rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudoterminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, vec![]).expect("its name");
        let name = name.into_string().expect("UTF-8");
        resize(&master, rows, columns);
        let slave = || {
            File::options()
                .read(true)
                .write(true)
                .open(&name)
                .expect("the other end")
        };
        // setsid(1): the terminal becomes the controlling one, so that Ctrl-C reaches the program.
        let mut leader = Command::new("setsid");
        leader
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args());
        leader.stdin(slave()).stdout(slave()).stderr(slave());
        let child = leader.spawn().expect("setsid starts");
        Self {
            master: master.into(),
            child,
            seen: String::new(),
        }
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal does not take it.
    pub fn type_in(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .expect("the terminal takes input");
    }

    /// Changes the window's size.
    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.master, rows, columns);
    }

    /// Reads until the text has appeared after what earlier calls found, and gives all up to its end.
    ///
    /// # Panics
    /// When it does not appear before `patience` is over, or the program ends first.
    pub fn expect(&mut self, text: &str, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let readable = !left.is_zero() && is_readable(&self.master, left);
            assert!(
                readable,
                "no `{text}` within {patience:?} in:\n{}",
                self.seen
            );
            let mut buffer = [0; 4096];
            let count = self.master.read(&mut buffer).unwrap_or(0);
            assert!(count > 0, "it ended before `{text}` in:\n{}", self.seen);
            self.seen
                .push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    /// Waits for the program's end, and gives its exit code.
    ///
    /// # Panics
    /// When it was ended by a signal, or cannot be waited for.
    pub fn wait(mut self) -> i32 {
        // What is still written must be read, or the program cannot end.
        let mut rest = vec![];
        let _ = self.master.read_to_end(&mut rest);
        let status = self.child.wait().expect("waited for");
        status.code().expect("an exit code")
    }
}

fn resize(master: &impl AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).expect("a size");
}

fn is_readable(file: &File, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).expect("short");
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&patience)).is_ok_and(|count| count > 0)
}
