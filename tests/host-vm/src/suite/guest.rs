//! A VM of banger's in the host, for one test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::host::{Finished, Host};
use crate::wait;

/// How long a guest has for what it does by itself: a boot in a VM in an emulated machine is slow.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// What guests run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vmm {
    /// QEMU microvm with the host's KVM.
    Qemu,
    /// Firecracker.
    Firecracker,
}

impl Vmm {
    /// The one that new VMs get on this host.
    pub(super) fn of(host: &Host) -> Result<Self> {
        let found = host.root("test -e /usr/lib/banger/firecracker && echo yes || true")?;
        Ok(match found.as_str() {
            "yes" => Self::Firecracker,
            _ => Self::Qemu,
        })
    }

    /// As flags and replies call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
        }
    }
}

/// A VM that is deleted with the value.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    pub(super) name: String,
    /// The stages of its making, as the command told them.
    pub(super) stages: Vec<(String, Duration)>,
    host: &'a Host,
}

impl<'a> Guest<'a> {
    /// Without an init, the agent alone: small and quick.
    pub(super) fn minimal(host: &'a Host, vmm: Vmm, flags: &[&str]) -> Result<Self> {
        let base = [
            "--image",
            "debian-minimal",
            "--memory",
            "256",
            "--vcpu",
            "1",
        ];
        let flags: Vec<&str> = base.iter().chain(flags).copied().collect();
        Self::create(host, vmm, &flags)
    }

    /// With any flags.
    pub(super) fn create(host: &'a Host, vmm: Vmm, flags: &[&str]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut guest = Self {
            name: format!("t{}-{number}", std::process::id()),
            stages: vec![],
            host,
        };
        let mut args = vec!["vm", "create", "--name", &guest.name, "--timeout", "170"];
        // Said, as the choice of the host's own is another where Firecracker is installed.
        args.extend(["--vmm", vmm.name()]);
        args.extend(flags);
        let made = host.banger(&args)?;
        guest.stages = made.stderr.lines().filter_map(stage).collect();
        made.ok()?;
        let is = guest.field("vmm")?;
        ensure!(
            is == vmm.name(),
            "{} is a VM of {is}, not {}",
            guest.name,
            vmm.name()
        );
        Ok(guest)
    }

    /// Runs a command in it, over vsock.
    pub(super) fn exec(&self, argv: &[&str]) -> Result<Finished> {
        let base = ["vm", "exec", &self.name, "--"];
        self.host
            .banger(&base.iter().chain(argv).copied().collect::<Vec<_>>())
    }

    /// Runs a shell line in it that must succeed; gives its output, trimmed.
    pub(super) fn sh(&self, line: &str) -> Result<String> {
        self.exec(&["sh", "-c", line])?.ok()
    }

    /// What `vm show` says.
    pub(super) fn show(&self) -> Result<Value> {
        self.host.json(&["vm", "show", &self.name])
    }

    /// A field of that, as text.
    pub(super) fn field(&self, name: &str) -> Result<String> {
        let shown = self.show()?;
        let value = shown
            .get(name)
            .with_context(|| format!("`vm show` has no {name}: {shown}"))?;
        Ok(value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned))
    }

    /// Runs `banger vm VERB` on it, which must succeed.
    pub(super) fn vm(&self, verb: &str) -> Result<()> {
        self.host.banger(&["vm", verb, &self.name])?.ok().map(drop)
    }

    /// Waits until it is in that phase.
    pub(super) fn wait_for_phase(&self, phase: &str) -> Result<()> {
        wait::until(&format!("{} is {phase}", self.name), PATIENCE, || {
            let now = self.field("phase")?;
            self.not_failed(&now, phase)?;
            Ok((now == phase).then_some(()))
        })
    }

    /// Which boot of the guest this is.
    pub(super) fn boot_id(&self) -> Result<String> {
        self.sh("cat /proc/sys/kernel/random/boot_id")
    }

    /// Waits until it answers in another boot than that.
    pub(super) fn wait_for_another_boot(&self, than: &str) -> Result<()> {
        wait::until(&format!("{} has booted again", self.name), PATIENCE, || {
            let asked = self.exec(&["cat", "/proc/sys/kernel/random/boot_id"])?;
            if asked.code == 0 && asked.stdout.trim() != than {
                return Ok(Some(()));
            }
            self.not_failed(&self.field("phase")?, "running")?;
            Ok(None)
        })
    }

    /// A failed VM stays so: waiting for something else is in vain.
    pub(super) fn not_failed(&self, now: &str, awaited: &str) -> Result<()> {
        if now == "failed" && awaited != "failed" {
            bail!("{} failed: {}", self.name, self.show()?["last_error"]);
        }
        Ok(())
    }
}

/// A line that tells a stage: mark, title, seconds.
fn stage(line: &str) -> Option<(String, Duration)> {
    let line = line.strip_prefix('✓')?.strip_suffix(" s")?;
    let (title, seconds) = line.trim().rsplit_once(' ')?;
    let seconds: f64 = seconds.parse().ok()?;
    Some((
        title.trim_end().to_owned(),
        Duration::try_from_secs_f64(seconds).ok()?,
    ))
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = self.host.banger(&["vm", "delete", "--force", &self.name]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read_from_what_a_create_tells() {
        let (title, took) = stage("✓ guest agent                     1.57 s").expect("a stage");
        assert_eq!((title.as_str(), took.as_millis()), ("guest agent", 1570));
        for other in [
            "",
            "spec: 2 vCPU · 8 GiB disk (built-in floor)",
            "✗ launch 1.00 s",
            "✓ x y s",
        ] {
            assert_eq!(stage(other), None, "{other}");
        }
    }
}
