//! `system install`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use banger_core::ErrorCode;
use banger_install::{
    CACHE_DIR, InstallSpec, InstalledFile, Owner, OwnerError, Plan, Programs, ProgramsError,
    Progress, ROOT_CONFIG, Record, STATE_DIR, Systemctl, WriteError, check_folders, lib_dir,
    remove, write, write_record,
};
use serde::Serialize;

use super::owner_call::{Running, as_owner, running};
use super::{load, need_root, need_systemd, start_units, stop_units, systemd};
use crate::cli::InstallArgs;
use crate::commands::CommandResult;
use crate::error::CommandError;
use crate::ui::Ui;

const ROOT: &str = "/";

/// What was done.
#[derive(Debug, Serialize)]
struct Installed {
    upgraded_from: Option<String>,
    #[serde(flatten)]
    record: Record,
}

/// `system install`.
pub(crate) fn install(ui: &Ui, args: &InstallArgs) -> CommandResult {
    need_root("system install")?;
    need_systemd()?;
    let earlier = load()?;
    let spec = decide(args, earlier.as_ref())?;
    let programs = find_programs(args, &spec)?;
    let plan = Plan::new(&spec, &programs);
    let root = Path::new(ROOT);
    check_folders(root, &plan).map_err(|error| refused(&error))?;
    check_owner(&spec, earlier.as_ref())?;
    check_network(&spec, earlier.as_ref())?;

    // From here on things change. A record of what is about to come is there first, so that half an
    // installation can be finished or removed.
    let planned = plan.files.iter().map(|file| InstalledFile {
        path: file.path.clone(),
        mode: file.mode,
        sha256: None,
    });
    let old = earlier.iter().flat_map(|record| record.files.clone());
    let stale: Vec<PathBuf> = old
        .map(|file| file.path)
        .filter(|path| !plan.files.iter().any(|file| file.path == *path))
        .collect();
    let stale_files = stale.iter().map(|path| InstalledFile {
        path: path.clone(),
        mode: 0,
        sha256: None,
    });
    let begun = Record::begin(&spec, planned.chain(stale_files).collect());
    let failed = |error: WriteError| refused(&error);
    write_record(root, &begun).map_err(failed)?;
    let files = write(root, &plan).map_err(failed)?;
    for path in &stale {
        remove(root, path).map_err(failed)?;
    }
    if let Some(earlier) = &earlier {
        // Of another prefix; one that is not empty stays.
        let _ = fs::remove_dir(lib_dir(&earlier.prefix));
    }
    make_config_folder(&spec.owner)?;
    let record = Record {
        progress: Progress::Complete,
        files,
        ..begun
    };
    write_record(root, &record).map_err(failed)?;
    Systemctl
        .run(&["daemon-reload"])
        .map_err(|error| systemd(&error))?;
    stop_units()?;
    start_units()?;
    let upgraded_from = earlier.map(|record| record.version);
    ui.result(
        &Installed {
            upgraded_from,
            record,
        },
        describe,
    );
    Ok(0)
}

fn describe(done: &Installed) -> String {
    let record = &done.record;
    let how = match &done.upgraded_from {
        Some(version) => format!("upgraded from {version}; running VMs went on"),
        None => "installed".to_owned(),
    };
    let owner = &record.owner.name;
    format!(
        "banger {version} is {how}\n\
         owner     {owner}\n\
         programs  {cli}, {lib}\n\
         config    {ROOT_CONFIG} (root's), {home}/.config/banger (yours)\n\
         data      {STATE_DIR}, {CACHE_DIR}\n\
         next      as {owner}: banger doctor; banger vm run",
        version = record.version,
        cli = record.cli().display(),
        lib = lib_dir(&record.prefix).display(),
        home = record.owner.home.display(),
    )
}

/// Options above what an earlier installation was told, above the defaults.
fn decide(args: &InstallArgs, earlier: Option<&Record>) -> Result<InstallSpec, CommandError> {
    let invalid = |error: &dyn std::error::Error| {
        CommandError::new(ErrorCode::InvalidArgument, error.to_string())
    };
    let owner = Owner::find(&args.owner).map_err(|error| {
        let refused = invalid(&error);
        match error {
            OwnerError::Root => refused.hint(
                "daily use shall need no root: name the user who works with it (--owner USER). In a root shell \
                 banger also works without being installed",
            ),
            OwnerError::Unknown(_) => refused.hint("make the user first, or name another with --owner"),
            _ => refused,
        }
    })?;
    let network = earlier.map(|record| record.network.clone());
    let network = network
        .unwrap_or_default()
        .with(args.bridge.clone(), args.bridge_ip, args.cidr.as_deref())
        .map_err(|error| invalid(&error))?;
    let prefix = args.prefix.clone();
    let spec = InstallSpec {
        owner,
        prefix: prefix
            .or_else(|| earlier.map(|record| record.prefix.clone()))
            .unwrap_or_else(|| "/usr".into()),
        network,
        kvm_group: kvm_group(),
        firecracker: args.firecracker.is_some() || earlier.is_some_and(|record| record.firecracker),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    spec.check().map_err(|error| invalid(&error))?;
    Ok(spec)
}

/// The group of `/dev/kvm`, when it is what lets people in.
fn kvm_group() -> Option<String> {
    let node = fs::metadata("/dev/kvm").ok()?;
    if node.gid() == 0 || node.mode() & 0o060 != 0o060 {
        return None;
    }
    let groups = std::process::Command::new("/usr/bin/getent")
        .args(["group", &node.gid().to_string()])
        .output()
        .ok()?;
    let line = String::from_utf8_lossy(&groups.stdout).into_owned();
    let name = line.split(':').next()?.to_owned();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
}

fn find_programs(args: &InstallArgs, spec: &InstallSpec) -> Result<Programs, CommandError> {
    let itself = std::env::current_exe()
        .map_err(|error| CommandError::internal("this program cannot find itself", &error))?;
    // One that an earlier installation brought stays.
    let kept = lib_dir(&spec.prefix).join("firecracker");
    let firecracker = match &args.firecracker {
        Some(path) => Some(path.as_path()),
        None => spec.firecracker.then_some(kept.as_path()),
    };
    Programs::beside(&itself, firecracker).map_err(|error| {
        let refused = CommandError::new(ErrorCode::InvalidArgument, error.to_string());
        match error {
            ProgramsError::Missing { .. } => {
                refused.hint("`make build` first, and call ./target/release/banger")
            }
            ProgramsError::NotExecutable(_) => refused,
        }
    })
}

/// One host, one owner; whose data lies there is who it is for.
fn check_owner(spec: &InstallSpec, earlier: Option<&Record>) -> Result<(), CommandError> {
    if let Some(record) = earlier
        && record.owner.uid != spec.owner.uid
    {
        let what = format!(
            "banger is installed for {} on this host already",
            record.owner.name
        );
        return Err(CommandError::new(ErrorCode::Installed, what).hint(
            "`sudo banger system uninstall` first; it keeps the data, which --purge deletes",
        ));
    }
    for path in [STATE_DIR, CACHE_DIR] {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            continue;
        };
        let ours = metadata.uid() == spec.owner.uid;
        if !metadata.is_dir() || !ours {
            let what = format!(
                "{path} belongs to user {} (of an earlier installation), not to {}",
                metadata.uid(),
                spec.owner.name
            );
            return Err(CommandError::new(ErrorCode::Installed, what)
                .hint(format!("install for that user, or move or delete {path}")));
        }
    }
    Ok(())
}

/// A network does not change under running VMs.
fn check_network(spec: &InstallSpec, earlier: Option<&Record>) -> Result<(), CommandError> {
    let Some(record) = earlier.filter(|record| record.network != spec.network) else {
        return Ok(());
    };
    match running(record) {
        Running::Known(names) if names.is_empty() => Ok(()),
        _ => {
            let what = "the network cannot change while VMs run";
            Err(CommandError::new(ErrorCode::InUse, what)
                .hint("banger vm stop them, and install again"))
        }
    }
}

/// The owner's own folder, made by the owner: root writes nothing in a home.
fn make_config_folder(owner: &Owner) -> Result<(), CommandError> {
    let folder = owner.home.join(".config/banger");
    let made = as_owner(owner, Path::new("/usr/bin/mkdir"))
        .args(["--parents", "--"])
        .arg(&folder)
        .output();
    let what = format!("{} could not be made as {}", folder.display(), owner.name);
    match made {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let mut error = CommandError::new(ErrorCode::HostNotReady, what);
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            error.0.causes.push(why);
            Err(error.hint("the owner needs a home to keep keys and configuration in"))
        }
        Err(error) => Err(CommandError::because(ErrorCode::HostNotReady, what, &error)),
    }
}

fn refused(error: &WriteError) -> CommandError {
    match error {
        WriteError::Untrusted(path) => {
            CommandError::new(ErrorCode::PermissionDenied, error.to_string()).hint(format!(
                "choose a --prefix of which every folder is root's and 0755; {} is not",
                path.display()
            ))
        }
        error => CommandError::because(
            ErrorCode::Internal,
            "the installation is not complete",
            error,
        )
        .hint("when the cause is gone, install again: it goes on where it stopped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::{assert_documented, example};

    #[test]
    fn the_sentences_and_the_documented_json() {
        let mut done = Installed {
            upgraded_from: None,
            record: serde_json::from_value(example("installation")).unwrap(),
        };
        assert_documented("installation", &serde_json::to_value(&done).unwrap());
        insta::assert_snapshot!(describe(&done));
        done.upgraded_from = Some("0.0.9".to_owned());
        insta::assert_snapshot!(describe(&done));
    }
}
