//! The `banger` under test, as a user would call it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::processes::pause;
use crate::until;

/// Longer than any command may take.
const HANGS: Duration = Duration::from_secs(300);

/// Flags of a small VM that is made soon: the image is a few megabytes, and the agent stays its first process.
pub const SMALL: &[&str] = &[
    "--wait",
    "reachable",
    "--image",
    "debian-minimal",
    "--memory",
    "256",
];

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit code; 128+N for a signal.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The code of the error that it ended with; without one, how it ended.
    #[must_use]
    pub fn error_code(&self) -> String {
        let line = self.stderr.lines().find(|line| line.starts_with("error:"));
        let code = line.and_then(|line| line.rsplit_once('[')?.1.strip_suffix(']'));
        let without = || format!("exit {} ({})", self.code, line.unwrap_or_default());
        code.map_or_else(without, str::to_owned)
    }

    /// Checks its exit code, and that each text stands in its standard error.
    ///
    /// # Panics
    /// When one of them is not so; the message begins with `what` and carries standard error.
    pub fn assert_failed(&self, what: &str, code: i32, texts: &[&str]) {
        assert_eq!(self.code, code, "{what}: {}", self.stderr);
        for text in texts {
            assert!(
                self.stderr.contains(text),
                "{what}: {text}: {}",
                self.stderr
            );
        }
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let signalled = || 128 + output.status.signal().unwrap_or_default();
        Self {
            code: output.status.code().unwrap_or_else(signalled),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The programs under test, with the directories that the environment gives them.
#[derive(Debug, Clone)]
pub struct Banger {
    bin: PathBuf,
}

impl Banger {
    /// From `BANGER_E2E_BIN`, the folder of the built programs.
    ///
    /// # Panics
    /// When the variable is unset: the tests are run by `scripts/e2e-tests`.
    #[must_use]
    pub fn from_env() -> Self {
        let bin = std::env::var_os("BANGER_E2E_BIN");
        Self {
            bin: bin.expect("run these tests with `make e2e`").into(),
        }
    }

    /// The path of one of the programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// banger's state directory.
    ///
    /// # Panics
    /// When `XDG_STATE_HOME` is unset, which `scripts/e2e-tests` sets.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        let state = std::env::var_os("XDG_STATE_HOME").expect("set by scripts/e2e-tests");
        Path::new(&state).join("banger")
    }

    /// A `banger` command that is not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(self.program("banger"));
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs `banger ARGS` to its end.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Finished {
        self.command(args).output().expect("banger starts").into()
    }

    /// The same, for commands that may say a pipe full at most: killed when it does not end for longer than any
    /// may take, with deadlines of its own and on a busy machine.
    ///
    /// # Errors
    /// That it hangs.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn run_to_an_end(&self, args: &[&str]) -> Result<Finished, String> {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("banger starts");
        let start = Instant::now();
        while child.try_wait().expect("it is ours").is_none() {
            if start.elapsed() > HANGS {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{args:?} did not end within {HANGS:?}"));
            }
            pause(Duration::from_millis(20));
        }
        Ok(child.wait_with_output().expect("ended").into())
    }

    /// The same with something on its standard input.
    ///
    /// # Panics
    /// When the program cannot be started or does not take its input.
    pub fn run_with_stdin<S: AsRef<OsStr>>(&self, args: &[S], stdin: &[u8]) -> Finished {
        let mut child = self.spawn(args);
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(stdin)
            .expect("takes its input");
        child.wait_with_output().expect("ends").into()
    }

    /// Starts `banger ARGS` with all three streams piped.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: &[S]) -> Child {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("banger starts")
    }

    /// Runs `banger ARGS`, which must succeed, and gives its standard output.
    ///
    /// # Panics
    /// When it fails; the message carries both its streams.
    pub fn ok<S: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[S]) -> String {
        let finished = self.run(args);
        assert_eq!(
            finished.code, 0,
            "banger {args:?}\n{}\n{}",
            finished.stdout, finished.stderr
        );
        finished.stdout
    }

    /// Runs `banger ARGS -o json`, which must succeed, and gives what it says.
    ///
    /// # Panics
    /// When it fails or does not print JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let all: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Kills the daemon (SIGKILL), and waits until it is gone.
    ///
    /// # Panics
    /// When there is none, or it does not go.
    pub fn kill_daemon(&self) {
        let status = self.json(&["daemon", "start"]);
        let pid = status["version"]["daemon"]["pid"].as_i64();
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("a daemon");
        kill_process(pid, Signal::KILL).expect("it is there");
        let proc = format!("/proc/{}/exe", pid.as_raw_nonzero());
        until("the daemon is gone", Duration::from_secs(20), || {
            std::fs::read_link(&proc).is_err()
        });
    }

    /// A VM that a test has made by itself; deleted when the value goes away.
    #[must_use]
    pub fn adopt(&self, name: &str) -> Vm {
        Vm {
            name: name.to_owned(),
            banger: self.clone(),
        }
    }

    /// A VM of its own for a test; deleted when the value goes away.
    ///
    /// # Panics
    /// When it cannot be created.
    #[must_use]
    pub fn vm(&self, flags: &[&str]) -> Vm {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}-{number}", std::process::id());
        // One whose guest does not come up is there as well, and no test after this one shall find it.
        let vm = self.adopt(&name);
        let base = ["vm", "create", "--name", &name];
        self.ok(&base.iter().chain(flags).copied().collect::<Vec<_>>());
        vm
    }
}

/// A VM that goes away with the value.
#[derive(Debug)]
pub struct Vm {
    /// Its name.
    pub name: String,
    banger: Banger,
}

impl Vm {
    /// Runs a command in the guest, over vsock.
    pub fn exec(&self, argv: &[&str]) -> Finished {
        let base = ["vm", "exec", &self.name, "--"];
        self.banger
            .run(&base.iter().chain(argv).copied().collect::<Vec<_>>())
    }

    /// Runs a shell line in the guest that must succeed, and gives its output, trimmed.
    ///
    /// # Panics
    /// When it fails.
    pub fn sh(&self, line: &str) -> String {
        let finished = self.exec(&["sh", "-c", line]);
        assert_eq!(
            finished.code, 0,
            "{line}\n{}\n{}",
            finished.stdout, finished.stderr
        );
        finished.stdout.trim_end().to_owned()
    }

    /// What `vm show` says of it.
    pub fn show(&self) -> Value {
        self.banger.json(&["vm", "show", &self.name])
    }

    /// Its phase.
    pub fn phase(&self) -> String {
        self.show()["phase"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.banger.run(&["vm", "delete", "--force", &self.name]);
    }
}
