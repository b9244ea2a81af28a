//! ssh into the host: keys of one run, and commands with a deadline.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::folder::Folder;
use crate::payload::run;

/// The configuration's name in a run's folder.
pub(crate) const CONFIG: &str = "ssh_config";

/// Makes a client key in the run's folder and a host key in `stage`, each knowing the other.
pub(crate) fn make_keys(folder: &Folder, stage: &Path) -> Result<()> {
    fs::create_dir_all(stage)?;
    let client = folder.path().join("key");
    let server = stage.join("ssh_host_ed25519_key");
    for key in [&client, &server] {
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "host-vm", "-f"])
            .arg(key))?;
    }
    fs::copy(client.with_extension("pub"), stage.join("authorized_keys"))?;
    let host_key = fs::read_to_string(server.with_extension("pub"))?;
    fs::write(
        folder.path().join("known_hosts"),
        format!("host-vm {host_key}"),
    )?;
    Ok(())
}

/// Writes the client's configuration: hosts `root`, `dev` and `stranger` are the users of that name.
pub(crate) fn write_config(folder: &Folder, port: u16) -> Result<()> {
    let dir = folder.path().display();
    let text = format!(
        "Host root dev stranger\n  HostName 127.0.0.1\n  Port {port}\n  User %n\n  HostKeyAlias host-vm\n  \
         IdentityFile \"{dir}/key\"\n  IdentitiesOnly yes\n  UserKnownHostsFile \"{dir}/known_hosts\"\n  \
         GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  PreferredAuthentications publickey\n  \
         ControlMaster auto\n  ControlPath {}/ssh-%n\n  ControlPersist 600\n  ServerAliveInterval 10\n  \
         ServerAliveCountMax 12\n  ConnectTimeout 10\n  LogLevel ERROR\n",
        folder.sockets().display()
    );
    // ssh expands no token in `User`: one block for each.
    let mut all = String::new();
    for user in ["root", "dev", "stranger"] {
        all += &text
            .replace("Host root dev stranger", &format!("Host {user}"))
            .replace("User %n", &format!("User {user}"));
    }
    fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(folder.path().join(CONFIG))
        .and_then(|mut file| file.write_all(all.as_bytes()))
        .context("writing the ssh configuration")
}

/// Reaches the users of one host.
#[derive(Debug, Clone)]
pub(crate) struct Ssh {
    config: PathBuf,
}

impl Ssh {
    /// By a configuration that `write_config` wrote.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            config: folder.join(CONFIG),
        }
    }

    /// A client that is not started yet; the line is for the user's shell.
    pub(crate) fn command(&self, user: &str, line: &str, limit: Duration) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", &limit.as_secs().to_string(), "ssh", "-F"])
            .arg(&self.config)
            .args([user, "--", line])
            .stdin(Stdio::null());
        command
    }

    /// Runs a line to its end; 124 is the deadline's status, 255 ssh's own.
    pub(crate) fn run(&self, user: &str, line: &str, limit: Duration) -> Result<Output> {
        self.command(user, line, limit)
            .output()
            .context("starting ssh")
    }

    /// Runs a line with that on its standard input.
    pub(crate) fn feed(
        &self,
        user: &str,
        line: &str,
        input: Stdio,
        limit: Duration,
    ) -> Result<Output> {
        self.command(user, line, limit)
            .stdin(input)
            .output()
            .context("starting ssh")
    }

    /// Ends the connections that are kept open: the host is about to forget them.
    pub(crate) fn hang_up(&self) {
        for user in ["root", "dev", "stranger"] {
            let mut command = Command::new("ssh");
            command
                .arg("-F")
                .arg(&self.config)
                .args(["-O", "exit", user]);
            let _ = command.stderr(Stdio::null()).status();
        }
    }
}
