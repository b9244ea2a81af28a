//! Asking the owner's daemon from root's command, as the owner.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use banger_api::VmList;
use banger_install::{Owner, Record};

/// Whether VMs run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Running {
    /// These; none, when it is empty.
    Known(Vec<String>),
    /// The daemon does not answer, and so many processes run under VMMs' users.
    Unknown(usize),
}

/// A program run as the owner, with nothing of root's environment.
pub(crate) fn as_owner(owner: &Owner, program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .uid(owner.uid)
        .gid(owner.gid)
        .env_clear()
        .env("HOME", &owner.home)
        .env("USER", &owner.name)
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// Which VMs run.
pub(crate) fn running(record: &Record) -> Running {
    let listed = as_owner(&record.owner, &record.cli())
        .args(["--output", "json", "vm", "list"])
        .output();
    if let Ok(output) = listed
        && output.status.success()
        && let Ok(list) = serde_json::from_slice::<VmList>(&output.stdout)
    {
        return Running::Known(names(&list));
    }
    match count_vmms() {
        0 => Running::Known(vec![]),
        count => Running::Unknown(count),
    }
}

fn names(list: &VmList) -> Vec<String> {
    let up = list.vms.iter().filter(|vm| vm.is_up());
    up.map(|vm| vm.name.clone()).collect()
}

/// Processes under the users that are VMMs' alone.
fn count_vmms() -> usize {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_vmm = |entry: &std::fs::DirEntry| {
        let is_process = entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|b| b.is_ascii_digit());
        is_process
            && entry
                .metadata()
                .is_ok_and(|metadata| (880_000..890_000).contains(&metadata.uid()))
    };
    entries.filter(is_vmm).count()
}

/// Stops VMs cleanly, as their owner would.
pub(crate) fn stop_vms(record: &Record, names: &[String]) -> Result<(), String> {
    let output = as_owner(&record.owner, &record.cli())
        .args(["vm", "stop", "--"])
        .args(names)
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
