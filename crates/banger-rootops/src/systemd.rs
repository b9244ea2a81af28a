//! Starting and ending a VM's transient unit, by systemd's own command line: no D-Bus in this process.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_core::VmId;
use banger_root_proto::{Refusal, RefusalCode};
use rustix::event::{Timespec, poll};
use rustix::fs::{Mode, OFlags, fstat, openat};

use crate::program;
use crate::refuse::{OrRefuse as _, refuse};
use crate::spawn::Started;
use crate::unit::{UnitSpec, unit_name};
use crate::{process, unit};

const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";
const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// How long systemd may take for one request.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the launcher may take to become the VM's user and start the VMM, and how often that is looked at.
const LAUNCH: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// The directory's path, for systemd. Where it leads by then is checked on the started process.
pub(crate) fn path_of(run: &OwnedFd) -> Result<PathBuf, Refusal> {
    fs::read_link(format!("/proc/self/fd/{}", run.as_raw_fd()))
        .or_refuse(|| "failed to find the VM's directory".into())
}

/// Starts the unit, and gives the VMM and its backend when both run in the VM's own directory.
pub(crate) fn start(
    spec: &UnitSpec<'_>,
    run: &OwnedFd,
) -> Result<(Started, Option<Started>), Refusal> {
    let failed = || format!("failed to start {}", unit_name(spec.vm));
    let root = spec.runtime_dir.join(unit::ROOT);
    let made = match fs::create_dir(&root) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    };
    // Whatever the helper's umask is: it is the unit's `/`.
    made.and_then(|()| fs::set_permissions(&root, fs::Permissions::from_mode(0o755)))
        .or_refuse(|| format!("failed to make {}", root.display()))?;
    let args = spec.systemd_run().or_refuse(failed)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    program::run(Path::new(SYSTEMD_RUN), &args, PATIENCE)
        .or_refuse_as(RefusalCode::HostNotReady, failed)?;
    let started = find(spec);
    let checked = started.and_then(|(vmm, backend)| {
        in_directory(&vmm, run)?;
        Ok((vmm, backend))
    });
    checked.map_err(|mut refusal| {
        refusal.causes.extend(last_words(run));
        end(spec.vm);
        refusal
    })
}

/// How much of a log is told.
const WORDS: u64 = 600;

/// What launcher and VMM said before they ended; both logs are theirs, so anything may be in them.
fn last_words(run: &OwnedFd) -> Vec<String> {
    let said = ["backend.log", "vmm.log"].iter().filter_map(|name| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::File::from(openat(run, *name, flags, Mode::empty()).ok()?);
        let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let mut text = Vec::new();
        if regular {
            file.take(WORDS).read_to_end(&mut text).ok()?;
        }
        let text = String::from_utf8_lossy(&text).replace(char::is_control, " ");
        (!text.trim().is_empty()).then(|| format!("{name}: {}", text.trim()))
    });
    said.collect()
}

/// Waits until the programs run as the VM's user.
fn find(spec: &UnitSpec<'_>) -> Result<(Started, Option<Started>), Refusal> {
    let deadline = Instant::now() + LAUNCH;
    loop {
        let vmm = running(spec.uid, spec.vmm);
        let backend = match spec.backend {
            true => running(spec.uid, spec.launcher).map(Some),
            false => Some(None),
        };
        if let (Some(vmm), Some(backend)) = (vmm, backend) {
            return Ok((vmm, backend));
        }
        let gone = is_gone(spec);
        if gone || Instant::now() >= deadline {
            let how = if gone {
                "ended at once"
            } else {
                "was not started in time"
            };
            let message = format!(
                "{} {how}; `journalctl -u {}` may say more",
                spec.vmm.display(),
                unit_name(spec.vm)
            );
            return Err(refuse(RefusalCode::HostNotReady, message));
        }
        pause();
    }
}

/// No event says that a process has become another program; so it is looked at again after a while.
fn pause() {
    let pause = Timespec::try_from(PAUSE).ok();
    let _ = poll(&mut [], pause.as_ref());
}

fn running(uid: u32, program: &Path) -> Option<Started> {
    let pids = process::running_as(uid).into_iter();
    let pid = pids.into_iter().find(|pid| process::runs(*pid, program))?;
    // The pidfd comes first: when the rest still fits, it is that very process's.
    let pidfd = process::open_pidfd(pid)?;
    let identity = process::identify(pid, program).ok()?;
    process::runs(pid, program).then_some(Started {
        child: None,
        identity,
        pidfd,
    })
}

/// Whether the unit has ended: its control group goes with it.
fn is_gone(spec: &UnitSpec<'_>) -> bool {
    let groups = Path::new("/sys/fs/cgroup");
    let unified = groups.join("cgroup.controllers").exists();
    unified && !groups.join(spec.slice).join(unit_name(spec.vm)).exists()
}

/// Whether the process works in that directory: its path, which systemd was given, is the owner's to change.
fn in_directory(vmm: &Started, run: &OwnedFd) -> Result<(), Refusal> {
    let failed = || "failed to look at the VM's directory".to_owned();
    let wanted = fstat(run).or_refuse(failed)?;
    let place = fs::metadata(format!("/proc/{}/cwd", vmm.identity.pid)).or_refuse(failed)?;
    if (place.dev(), place.ino()) == (wanted.st_dev, wanted.st_ino) {
        return Ok(());
    }
    let message = "the VM's directory was exchanged while the VMM was started";
    Err(refuse(RefusalCode::Descriptor, message))
}

/// Ends the unit with all that is in it, and waits. One that is not there is fine.
pub(crate) fn end(vm: &VmId) {
    let unit = unit_name(vm);
    // Its processes are ended by their user as well; what systemd says here decides nothing.
    let _ = program::run(Path::new(SYSTEMCTL), &["stop", "--", &unit], PATIENCE);
}
