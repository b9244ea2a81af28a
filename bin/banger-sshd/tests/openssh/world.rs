//! Keys, a client's configuration, and running clients with a deadline.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The longest that a client may take, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A folder with keys and a configuration in which `guest` is the server.
#[derive(Debug)]
pub(crate) struct World {
    dir: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }
}

fn program_is_there(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).exists())
}

impl World {
    /// `None`, said loudly, where a client is missing.
    pub(crate) fn with(clients: &[&str]) -> Option<Self> {
        for name in clients.iter().chain(&["ssh", "ssh-keygen"]) {
            if !program_is_there(name) {
                println!("SKIPPED(ssh server): {name} is not installed");
                return None;
            }
        }
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for key in ["host", "owner", "stranger"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(world.path(key))
                .status();
            assert!(made.unwrap().success());
        }
        let host = fs::read_to_string(world.path("host.pub")).unwrap();
        fs::write(world.path("known_hosts"), format!("guest {host}")).unwrap();
        world.authorize("owner");
        world.configure(&[]);
        Some(world)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Lets that key in, and no other.
    pub(crate) fn authorize(&self, key: &str) {
        let file = self.path("authorized_keys");
        fs::copy(self.path(&format!("{key}.pub")), &file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Words that run the server.
    pub(crate) fn server(&self, more: &[&str]) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let mut words = vec![
            env!("CARGO_BIN_EXE_banger-sshd").to_owned(),
            "serve".to_owned(),
        ];
        words.extend(["--host-key".to_owned(), path("host")]);
        words.extend(["--authorized-keys".to_owned(), path("authorized_keys")]);
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    }

    /// Writes the client's configuration, with these options of the server's.
    pub(crate) fn configure(&self, more: &[&str]) {
        let text = format!(
            "Host *\n  User {}\n  IdentityFile {}\n  IdentitiesOnly yes\n  IdentityAgent none\n  \
             UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  \
             LogLevel ERROR\n  ProxyCommand {}\n",
            me(),
            self.path("owner").display(),
            self.path("known_hosts").display(),
            self.server(more).join(" ")
        );
        fs::write(self.path("config"), text).unwrap();
    }

    /// A client of ssh's with the configuration.
    pub(crate) fn client(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.arg("-F").arg(self.path("config"));
        command
    }

    /// How others call ssh.
    pub(crate) fn ssh_line(&self) -> String {
        format!("ssh -F {}", self.path("config").display())
    }

    /// Runs `ssh guest …`.
    pub(crate) fn ssh(&self, words: &[&str]) -> Finished {
        run(self.client("ssh").arg("guest").args(words), b"")
    }
}

/// Who runs the tests.
pub(crate) fn me() -> String {
    let id = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(id.stdout).unwrap().trim().to_owned()
}

/// Runs a command with that input. One that does not end in time fails the test, and is killed.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Finished {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let input = input.to_vec();
    // One that ends before it has read all of it is no failure.
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let reading = std::thread::spawn(move || {
        let mut bytes = vec![];
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let hearing = std::thread::spawn(move || {
        let mut bytes = vec![];
        stderr.read_to_end(&mut bytes).map(|_| bytes)
    });
    let begun = Instant::now();
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd =
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("a pidfd");
    let mut fds = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    let longest = rustix::event::Timespec::try_from(DEADLINE).unwrap();
    let ended = rustix::event::poll(&mut fds, Some(&longest)).expect("poll");
    if ended == 0 {
        let _ = child.kill();
        let _ = child.wait();
        panic!(
            "{command:?} runs for {:?} and does not end",
            begun.elapsed()
        );
    }
    let status = child.wait().unwrap();
    writing.join().unwrap();
    let stdout = reading.join().unwrap().unwrap();
    let stderr = hearing.join().unwrap().unwrap();
    Finished {
        status,
        stdout,
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Bytes that are not all the same.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(|_| next()).collect()
}

/// Writes a file.
pub(crate) fn put(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}
