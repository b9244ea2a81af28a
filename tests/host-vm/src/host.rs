//! The host as tests see it: shell lines as root or as the ordinary user, and `banger` as that user calls it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::artefacts::Artefacts;
use crate::folder::Folder;
use crate::ssh::Ssh;
use crate::together::Together;
use crate::{qmp, wait};

/// How long a line may take unless the test says more.
const LIMIT: Duration = Duration::from_secs(180);

/// How long a boot of the host may take.
const REBOOT: Duration = Duration::from_secs(300);

/// The checkout in the host, built.
const CHECKOUT: &str = "/home/dev/checkout";

/// What installs banger from there: the README's line, with a Firecracker when there is one.
const INSTALL: &str = "cd ~/checkout && sudo ./target/release/banger system install --owner \"$USER\" \
                       $([ -e firecracker ] && echo --firecracker firecracker)";

/// Tells one boot of the host from another.
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

/// How a guest ends that its processor has reset, as the daemon says it.
const RESET: &str = "the VMM ended without a farewell from the guest";

/// Who runs a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// root.
    Root,
    /// The ordinary user that banger belongs to.
    Dev,
}

impl User {
    const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Dev => "dev",
        }
    }
}

/// How a line ended.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    /// What was run, for messages.
    line: String,
    /// Exit code; 124 when the deadline passed, 255 when ssh failed.
    pub(crate) code: i32,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

impl Finished {
    fn new(line: &str, output: &Output) -> Self {
        Self {
            line: line.to_owned(),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its output, trimmed, when it succeeded.
    pub(crate) fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "{}", self.describe());
        Ok(self.stdout.trim_end().to_owned())
    }

    /// All of it, for a message.
    pub(crate) fn describe(&self) -> String {
        format!(
            "`{}` ended with {}\nstdout: {}\nstderr: {}",
            self.line,
            self.code,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }
}

/// A running host.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    ssh: Ssh,
    qmp: Option<PathBuf>,
    figures: Arc<Mutex<Vec<(String, Duration)>>>,
    /// The boot that tests know of.
    boot: Arc<Mutex<String>>,
    together: Arc<Together>,
}

impl Host {
    /// By the folder of its run; `qmp` is QEMU's socket.
    pub(crate) fn new(folder: &Path, qmp: Option<PathBuf>) -> Self {
        Self {
            ssh: Ssh::new(folder),
            qmp,
            figures: Arc::default(),
            boot: Arc::default(),
            together: Arc::default(),
        }
    }

    /// Where tests of a pair meet.
    pub(crate) fn together(&self) -> &Together {
        &self.together
    }

    /// Does to the host what the tests of a pair would each do to it: once, when both are that far.
    ///
    /// # Errors
    /// It failed, which both are told.
    pub(crate) fn once(&self, what: &str, deed: impl FnOnce() -> Result<()>) -> Result<()> {
        self.together.once(what, deed)
    }

    /// Kills the main processes of these units, as [`Host::once`] does things.
    ///
    /// # Errors
    /// It failed.
    pub(crate) fn kill_services(&self, units: &str) -> Result<()> {
        self.once(&format!("{units} are killed"), || {
            self.root(&format!(
                "systemctl kill --kill-whom=main --signal=KILL {units}"
            ))
            .map(drop)
        })
    }

    /// Notes how long something took, for the end of the report.
    pub(crate) fn note(&self, what: String, took: Duration) {
        let figures = self.figures.lock();
        let mut figures = figures.unwrap_or_else(PoisonError::into_inner);
        figures.push((what, took));
    }

    /// What was noted, in its order.
    pub(crate) fn figures(&self) -> Vec<(String, Duration)> {
        let figures = self.figures.lock();
        figures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One that `host-vm up` keeps running.
    pub(crate) fn at(folder: &Path) -> Result<Self> {
        let qmp = fs::read_link(folder.join("qmp")).ok();
        let host = Self::new(folder, qmp);
        ensure!(
            host.answers(),
            "no host answers at {}; `host-vm up` keeps one",
            folder.display()
        );
        Ok(host)
    }

    /// Whether root is let in just now.
    pub(crate) fn answers(&self) -> bool {
        let asked = self.ssh.run("root", "true", Duration::from_secs(15));
        asked.is_ok_and(|output| output.status.success())
    }

    /// Runs a shell line to its end.
    pub(crate) fn run(&self, user: User, line: &str) -> Result<Finished> {
        self.run_within(user, line, LIMIT)
    }

    /// The same with a deadline of its own.
    pub(crate) fn run_within(&self, user: User, line: &str, limit: Duration) -> Result<Finished> {
        let output = self.ssh.run(user.name(), line, limit)?;
        let finished = Finished::new(line, &output);
        ensure!(
            finished.code != 255,
            "ssh into the host failed: {}",
            finished.describe()
        );
        ensure!(
            finished.code != 124,
            "took longer than {} s: {}",
            limit.as_secs(),
            finished.describe()
        );
        Ok(finished)
    }

    /// A line as root that must succeed; gives its output, trimmed.
    pub(crate) fn root(&self, line: &str) -> Result<String> {
        self.run(User::Root, line)?.ok()
    }

    /// A line as the ordinary user that must succeed.
    pub(crate) fn dev(&self, line: &str) -> Result<String> {
        self.run(User::Dev, line)?.ok()
    }

    /// Runs `banger ARGS` as the ordinary user.
    pub(crate) fn banger(&self, args: &[&str]) -> Result<Finished> {
        self.run(User::Dev, &format!("banger {}", quote(args)))
    }

    /// The same, asking for JSON; it must succeed.
    pub(crate) fn json(&self, args: &[&str]) -> Result<Value> {
        let all: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        let text = self.banger(&all)?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("banger {args:?} said {text}"))
    }

    /// A client that is not started yet, for a line that shall go on while the test does other things.
    pub(crate) fn command(&self, line: &str, limit: Duration) -> Command {
        self.ssh.command(User::Dev.name(), line, limit)
    }

    /// Takes the checkout from the run's drive, installs banger from it, and adds kernel and smallest image.
    pub(crate) fn install_from_payload(&self) -> Result<()> {
        self.dev(&format!(
            "mkdir -p {CHECKOUT} && cp -r /payload/checkout/. {CHECKOUT}/"
        ))?;
        self.install()?;
        self.take_along("kernels")?;
        self.take_along("images/debian-minimal")
    }

    /// Installs banger as the checkout has it, or upgrades to that.
    pub(crate) fn install(&self) -> Result<()> {
        self.dev(INSTALL).map(drop)
    }

    /// Takes a part of the state that was made outside, when it is not there.
    pub(crate) fn take_along(&self, part: &str) -> Result<()> {
        let line = format!(
            "state=/var/lib/banger; [ -e $state/{part} ] || {{ \
             mkdir -p $(dirname $state/{part}) && cp -r --sparse=always /payload/state/{part} $state/{part}; }}"
        );
        self.dev(&line).map(drop)
    }

    /// Brings the programs as they are outside now, over ssh, and upgrades to them.
    pub(crate) fn renew(&self, artefacts: &Artefacts) -> Result<()> {
        let stage = tempfile::tempdir()?;
        artefacts.stage(stage.path())?;
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(stage.path())
            .args(["-czf", "-", "."])
            .stdout(Stdio::piped())
            .spawn()
            .context("starting tar")?;
        let stream = tar.stdout.take().context("tar has no output")?;
        let line = format!("mkdir -p {CHECKOUT} && tar -C {CHECKOUT} -xzf -");
        let output = self.ssh.feed("dev", &line, stream.into(), LIMIT)?;
        ensure!(tar.wait()?.success(), "tar failed");
        Finished::new(&line, &output).ok()?;
        self.install()
    }

    /// Resets the machine as a power cut does, and waits until it is up again.
    pub(crate) fn cut_power(&self) -> Result<()> {
        let Some(qmp) = &self.qmp else {
            bail!("this host's QEMU is not ours to reset");
        };
        self.through_a_boot(|| qmp::execute(qmp, "system_reset").map(drop))
    }

    /// Reboots it in an orderly way, and waits until it is up again.
    pub(crate) fn reboot(&self) -> Result<()> {
        self.through_a_boot(|| {
            // The connection may end before the answer.
            let _ = self
                .ssh
                .run("root", "systemctl reboot", Duration::from_secs(30));
            Ok(())
        })
    }

    /// Takes the boot that it is in for the one that tests know of.
    pub(crate) fn know_boot(&self) {
        let now = self.boot_id();
        *self.known_boot() = now;
    }

    /// Whether it is in another boot than the one that is known, or in none: it was not a test that had it booted.
    pub(crate) fn has_crashed(&self) -> bool {
        let now = self.boot_id();
        now != *self.known_boot()
    }

    /// Empty when it does not answer.
    fn boot_id(&self) -> String {
        self.root(BOOT_ID).unwrap_or_default()
    }

    fn known_boot(&self) -> MutexGuard<'_, String> {
        self.boot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many VMs have ended without a word of their guests so far, as the daemon's log has it.
    pub(crate) fn resets(&self) -> usize {
        let line = format!("cat /var/lib/banger/bangerd.log* | grep -acF '{RESET}' || true");
        let count = self.root(&line).ok();
        count.and_then(|it| it.parse().ok()).unwrap_or_default()
    }

    /// Waits until it is up, which it may not be yet after a crash, and deletes what VMs there are: those of the test that was cut off.
    pub(crate) fn recover(&self) -> Result<()> {
        self.wait_until_up(|| Ok(self.answers()))?;
        let list = self.json(&["vm", "list"])?;
        let vms = list["vms"].as_array().into_iter().flatten();
        let names: Vec<&str> = vms.filter_map(|vm| vm["name"].as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let delete = [&["vm", "delete", "--force"], names.as_slice()].concat();
        self.banger(&delete)?.ok().map(drop)
    }

    fn through_a_boot(&self, end: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.root(BOOT_ID)?;
        end()?;
        self.wait_until_up(|| {
            let asked = self.ssh.run("root", BOOT_ID, Duration::from_secs(15))?;
            let now = String::from_utf8_lossy(&asked.stdout).trim_end().to_owned();
            let is_up = asked.status.success() && now != before;
            if is_up {
                *self.known_boot() = now;
            }
            Ok(is_up)
        })
    }

    fn wait_until_up(&self, is_up: impl Fn() -> Result<bool>) -> Result<()> {
        self.ssh.hang_up();
        wait::until("the host is up again", REBOOT, || {
            let up = is_up()?;
            if !up {
                self.ssh.hang_up();
            }
            Ok(up.then_some(()))
        })
    }

    /// Copies journal, daemon and VM logs out of the host, and the console of the host itself.
    pub(crate) fn collect_logs(&self, folder: &Folder, logs: &Path) -> Result<()> {
        let into = logs.join(std::process::id().to_string());
        fs::create_dir_all(&into).with_context(|| format!("making {}", into.display()))?;
        for file in ["console.log", "qemu.log"] {
            let _ = fs::copy(folder.path().join(file), into.join(file));
        }
        let latest = logs.join("latest");
        let _ = fs::remove_file(&latest);
        symlink(std::process::id().to_string(), &latest)?;
        let line = "cd / && journalctl --no-pager -o short-precise >/run/journal.txt; dmesg >/run/dmesg.txt; \
                    find run/journal.txt run/dmesg.txt home/dev/.local/state/banger var/lib/banger \
                      \\( -name '*.log*' -o -name '*.txt' \\) -type f -size -20M 2>/dev/null | tar -czf - -T -";
        let archive = File::create(into.join("host.tar.gz"))?;
        let mut command = self.ssh.command("root", line, LIMIT);
        let status = command.stdout(archive).status()?;
        ensure!(
            status.success(),
            "the logs could not be read from the host ({status})"
        );
        println!("logs: {}", into.display());
        Ok(())
    }
}

/// Words as a shell line that stands for just them.
pub(crate) fn quote(words: &[&str]) -> String {
    let plain = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&b))
    };
    let one = |word: &&str| match plain(word) {
        true => (*word).to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    words.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gives_back_the_words_that_were_quoted() {
        let words = [
            "",
            "a b",
            "it's",
            "$HOME `x` \\",
            "--plain=1",
            "new\nline",
            "*",
        ];
        let line = format!("printf '%s\\0' {}", quote(&words));
        let output = Command::new("sh").args(["-c", &line]).output().expect("sh");
        let text = String::from_utf8(output.stdout).expect("text");
        let back: Vec<&str> = text.split_terminator('\0').collect();
        assert_eq!(back, words);
    }
}
