//! Starting a VM's two processes: the vsock backend, whose sockets already listen, and QEMU.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use banger_core::VmId;
use banger_root_proto::{Accel, DriveFormat, LaunchSpec, ProcessIdentity, RefusalCode};

use crate::config::HelperConfig;
use crate::error::{Context, OpError};
use crate::qemu::qemu_args;
use crate::rundir::{self, Users};
use crate::{process, sys, tap};

/// The guest's vsock context id: each VM has a backend of its own, so all can have the same.
const GUEST_CID: &str = "3";

/// Fills a new folder with everything that the VMM shall see.
pub(crate) fn prepare(
    folder: &OwnedFd,
    spec: &LaunchSpec,
    files: &[OwnedFd],
    users: Users,
) -> Result<OwnedFd, OpError> {
    let missing = || OpError::refused(RefusalCode::Descriptor, "a drive's descriptor is missing");
    let run = rundir::create(folder.as_fd(), users)?;
    let mut files = files.iter().map(AsFd::as_fd);
    for name in ["kernel", "initrd"] {
        rundir::link_shared(&run, files.next().ok_or_else(missing)?, name, users)?;
    }
    for drive in &spec.drives {
        let file = files.next().ok_or_else(missing)?;
        if drive.read_only {
            rundir::link_shared(&run, file, drive.role.as_str(), users)?;
        } else {
            rundir::link_writable(&run, file, drive.role.as_str(), users)?;
        }
        if drive.format == DriveFormat::Qcow2 {
            rundir::link_shared(&run, files.next().ok_or_else(missing)?, "base", users)?;
        }
    }
    Ok(run)
}

/// Starts the backend.
pub(crate) fn start_backend(
    config: &HelperConfig,
    run: &OwnedFd,
    users: Users,
) -> Result<ProcessIdentity, OpError> {
    let sockets = [
        rundir::listener(run, "vhost", users)?,
        rundir::listener(run, "v", users)?,
    ];
    let log = rundir::log_file(run, "backend.log", users)?;
    let mut command = Command::new(&config.vhost_vsock);
    command.args([
        "--guest-cid",
        GUEST_CID,
        "--vhost-fd",
        "3",
        "--host-fd",
        "4",
    ]);
    let groups = vec![];
    spawn(
        command,
        &config.vhost_vsock,
        run,
        log,
        users.vmm,
        groups,
        &sockets,
    )
}

/// Starts QEMU.
pub(crate) fn start_vmm(
    config: &HelperConfig,
    run: &OwnedFd,
    vm: &VmId,
    spec: &LaunchSpec,
    users: Users,
) -> Result<ProcessIdentity, OpError> {
    let log = rundir::log_file(run, "vmm.log", users)?;
    let console = rundir::log_file(run, "console", users)?;
    drop(console);
    let mut fds = Vec::new();
    if spec.mac.is_some() {
        fds.push(OwnedFd::from(tap::open(vm)?));
    }
    let mut groups = vec![];
    if spec.accel == Accel::Kvm {
        let kvm =
            std::fs::metadata("/dev/kvm").context(|| "failed to look at /dev/kvm".to_owned())?;
        groups.push(kvm.gid());
    }
    let mut command = Command::new(&config.qemu);
    command.args(qemu_args(vm, spec));
    spawn(command, &config.qemu, run, log, users.vmm, groups, &fds)
}

fn spawn(
    mut command: Command,
    program: &Path,
    run: &OwnedFd,
    log: OwnedFd,
    uid: u32,
    groups: Vec<u32>,
    fds: &[OwnedFd],
) -> Result<ProcessIdentity, OpError> {
    let what = || format!("failed to start {}", program.display());
    let log = File::from(log);
    let log_too = log.try_clone().context(what)?;
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too);
    sys::confine(
        &mut command,
        &sys::Confinement {
            cwd: run.as_fd(),
            uid,
            groups,
            fds,
        },
    );
    let child = match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("{} is not there", program.display());
            return Err(OpError::refused(RefusalCode::HostNotReady, message));
        }
        result => result.context(what)?,
    };
    process::identify(child.id()).context(|| format!("{} ended at once", program.display()))
}
