//! Being the first process of a VM's unit: becoming its user, and starting the VMM.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Uid};

use crate::args::Failure;

/// How the device or the VMM ended, for the log.
type Served = Result<(), String>;

/// Becomes another user with no way back: user, group and groups, real, effective and saved, so that the
/// kernel takes every capability away (capabilities(7)). The process has one thread yet.
pub(crate) fn become_user(uid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // What it makes is its group's too, which is its own: the group's bits are what the owner's entry in the
    // inherited access list is cut down to (acl(5), mask).
    rustix::process::umask(Mode::RWXO);
    let left = rustix::thread::capabilities(None)?;
    if !left.effective.is_empty() || !left.permitted.is_empty() {
        return Err(io::Error::other("capabilities are left"));
    }
    Ok(())
}

/// A log in the VM's own directory.
pub(crate) fn log(path: &str) -> io::Result<File> {
    let mut options = File::options();
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    options.create(true).append(true).mode(0o660);
    options.custom_flags(flags).open(path)
}

/// Sends what this process says from now on into a log.
pub(crate) fn speak_into(log: &File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(log.as_fd())?;
    rustix::stdio::dup2_stderr(log.as_fd())?;
    Ok(())
}

fn command(vmm: &[String], log: Option<File>) -> io::Result<Command> {
    let (program, args) = vmm
        .split_first()
        .ok_or_else(|| io::Error::other("there is no program"))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    if let Some(log) = log {
        command.stdout(log.try_clone()?).stderr(log);
    }
    Ok(command)
}

/// Becomes the VMM; returns only when that fails.
pub(crate) fn exec(vmm: &[String], log: Option<File>) -> io::Error {
    match command(vmm, log) {
        Ok(mut command) => {
            let error = command.exec();
            io::Error::new(error.kind(), format!("{} was not started: {error}", vmm[0]))
        }
        Err(error) => error,
    }
}

/// Starts the VMM, and serves its device until it has ended. A device that breaks ends the process, and
/// with it the unit.
pub(crate) fn beside(
    vmm: &[String],
    log: Option<File>,
    serve: impl FnOnce() -> Served + Send + 'static,
) -> Result<(), Failure> {
    let mut child = command(vmm, log)?.spawn()?;
    let (ends, ended) = mpsc::channel::<Served>();
    let broken = ends.clone();
    thread::spawn(move || {
        if let Err(error) = serve() {
            // Nobody listens when the VMM has ended.
            let _ = broken.send(Err(error));
        }
    });
    thread::spawn(move || {
        let status = child.wait();
        let ended = match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the VMM ended with {status}")),
            Err(error) => Err(error.to_string()),
        };
        let _ = ends.send(ended);
    });
    ended.recv()?.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<String> {
        line.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn it_ends_with_the_vmm_and_says_how() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmm.log");
        let path = path.to_str().unwrap();
        let forever = || {
            thread::park();
            Ok(())
        };
        let sh = words(&["/bin/sh", "-c", "echo said; env; exit 3"]);
        let error = beside(&sh, Some(log(path).unwrap()), forever).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let said = std::fs::read_to_string(path).unwrap();
        assert!(
            said.starts_with("said\n") && !said.contains("CARGO"),
            "{said}"
        );
        beside(&words(&["/bin/true"]), None, forever).unwrap();
        assert!(beside(&words(&["/nowhere/qemu"]), None, forever).is_err());
    }

    #[test]
    fn a_device_that_breaks_ends_it() {
        // In the unit, the VMM would be ended now; here it ends by itself, later.
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path().join("l").to_str().unwrap()).unwrap();
        let vmm = words(&["/bin/sleep", "5"]);
        let error = beside(&vmm, Some(log), || Err("broken".into())).unwrap_err();
        assert_eq!(error.to_string(), "broken");
    }

    #[test]
    fn a_log_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("l");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(log(link.to_str().unwrap()).is_err());
    }
}
