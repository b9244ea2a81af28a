//! Starting the processes of a VM.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use banger_root_proto::{ProcessIdentity, Refusal, RefusalCode};

use rustix::process::{Signal, pidfd_send_signal};

use crate::process::{identify, open_pidfd};
use crate::refuse::{OrRefuse as _, refuse};
use crate::sys::{Confinement, spawn_confined};

/// The guest's address on its vsock; every VM has its own device, so all have the same.
pub(crate) const GUEST_CID: &str = "3";

/// A process that was just started.
#[derive(Debug)]
pub(crate) struct Started {
    /// None: it is the service manager's child.
    pub(crate) child: Option<Child>,
    pub(crate) identity: ProcessIdentity,
    pub(crate) pidfd: OwnedFd,
}

impl Started {
    /// Ends it and waits.
    pub(crate) fn end(&mut self) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

/// Where and as whom it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) directory: BorrowedFd<'a>,
    pub(crate) uid: u32,
    pub(crate) groups: &'a [u32],
}

/// The vsock backend, with its two listening sockets.
pub(crate) fn backend(
    program: &Path,
    place: Place<'_>,
    vhost: &OwnedFd,
    host: &OwnedFd,
    log: File,
) -> Result<Started, Refusal> {
    let [vhost_fd, host_fd] = [vhost, host].map(|fd| fd.as_raw_fd().to_string());
    let args = [
        "--guest-cid",
        GUEST_CID,
        "--vhost-fd",
        &vhost_fd,
        "--host-fd",
        &host_fd,
    ];
    start(
        program,
        args.map(str::to_owned),
        place,
        &[vhost.as_fd(), host.as_fd()],
        log,
    )
}

/// The VMM, with its tap.
pub(crate) fn vmm(
    program: &Path,
    args: Vec<String>,
    place: Place<'_>,
    tap: Option<&OwnedFd>,
    log: File,
) -> Result<Started, Refusal> {
    let keep: Vec<BorrowedFd<'_>> = tap.iter().map(|tap| tap.as_fd()).collect();
    start(program, args, place, &keep, log)
}

fn start(
    program: &Path,
    args: impl IntoIterator<Item = String>,
    place: Place<'_>,
    keep: &[BorrowedFd<'_>],
    log: File,
) -> Result<Started, Refusal> {
    let failed = || format!("failed to start {}", program.display());
    let args: Vec<String> = args.into_iter().collect();
    let command = |path: &Path| -> std::io::Result<Command> {
        let mut command = Command::new(path);
        command
            .arg0(program)
            .args(&args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        Ok(command)
    };
    let confinement = Confinement {
        directory: place.directory,
        keep,
        uid: place.uid,
        groups: place.groups,
    };
    let spawn = |path: &Path| spawn_confined(command(path)?, &confinement);
    let spawned = match spawn(program) {
        // In a folder that its user cannot enter (a private home): root opens it, and what is
        // executed is the open file.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let file = File::open(program).or_refuse_as(RefusalCode::HostNotReady, failed)?;
            spawn(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
        }
        other => other,
    };
    let mut child = spawned.or_refuse_as(RefusalCode::HostNotReady, failed)?;
    // It is our child and not yet waited for, so its number is its own, ended or not.
    let known = identify(child.id(), program).or_refuse(failed);
    let pidfd = open_pidfd(child.id());
    match (known, pidfd) {
        (Ok(identity), Some(pidfd)) => Ok(Started {
            child: Some(child),
            identity,
            pidfd,
        }),
        (known, _) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(known.err().unwrap_or_else(|| {
                refuse(
                    RefusalCode::HostNotReady,
                    "this kernel has no pidfd_open (Linux 5.3)",
                )
            }))
        }
    }
}

/// Collects processes when they end; they stay ours only as long as this process lives.
pub(crate) fn reap(started: impl IntoIterator<Item = Child>) {
    for mut child in started {
        let wait = move || {
            // Its status is nobody's business here: who cares holds a pidfd.
            let _ = child.wait();
        };
        // Without the thread it stays a zombie, which counts as gone.
        let _ = std::thread::Builder::new()
            .name("reap".into())
            .stack_size(64 << 10)
            .spawn(wait);
    }
}

/// The groups that let a VMM open `/dev/kvm`.
pub(crate) fn kvm_groups() -> Result<Vec<u32>, Refusal> {
    let node = std::fs::metadata("/dev/kvm").or_refuse_as(RefusalCode::HostNotReady, || {
        "this machine has no /dev/kvm".into()
    })?;
    let for_all = node.mode() & 0o006 == 0o006;
    let for_group = node.mode() & 0o060 == 0o060 && node.gid() != 0;
    match (for_all, for_group) {
        (true, _) => Ok(vec![]),
        (false, true) => Ok(vec![node.gid()]),
        (false, false) => {
            let message =
                "/dev/kvm is open to root only; give it a group (usually `kvm`, mode 0660)";
            Err(refuse(RefusalCode::HostNotReady, message))
        }
    }
}
