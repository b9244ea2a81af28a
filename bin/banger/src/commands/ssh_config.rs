//! `vm ssh-config`: what ssh has to know so that `ssh name.vm` works, and all that goes by ssh: rsync, git,
//! sftp, editors. Connections go over vsock, also when the guest has no network.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use banger_api::SshAccess;
use banger_core::ErrorCode;
use serde::Serialize;

use super::{CommandResult, Context, ssh};
use crate::cli::SshConfigArgs;
use crate::error::CommandError;
use crate::start::Needs;

#[derive(Debug, Serialize)]
struct Installed {
    /// Holds the settings.
    file: PathBuf,
    /// Includes it.
    ssh_config: PathBuf,
    /// Whether that had to be changed.
    changed: bool,
}

/// `vm ssh-config`.
pub(crate) async fn ssh_config(context: &Context<'_>, args: &SshConfigArgs) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let access = client.ssh_access().await?;
    let program = ssh::this_program()?;
    let text = render(&access, &program);
    if !args.install {
        context.ui.result(&text, Clone::clone);
        context
            .ui
            .note("`banger vm ssh-config --install` makes ssh read this");
        return Ok(0);
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = home.filter(|home| home.is_absolute()).ok_or_else(|| {
        CommandError::new(ErrorCode::InvalidArgument, "HOME is not set to a folder")
    })?;
    let file = context.paths.config_dir.join("ssh/config");
    let installed = install(&home, &file, &text).map_err(|error| {
        let what = "the settings for ssh could not be written";
        CommandError::because(ErrorCode::PermissionDenied, what, &error)
    })?;
    context.ui.result(&installed, |installed| {
        format!(
            "ssh NAME.vm works from now on ({}, included by {})",
            installed.file.display(),
            installed.ssh_config.display()
        )
    });
    Ok(0)
}

fn install(home: &Path, file: &Path, text: &str) -> io::Result<Installed> {
    replace(file, text, 0o600)?;
    let ssh_config = home.join(".ssh/config");
    // A link, into somebody's collection of such files, stays one.
    let target = fs::canonicalize(&ssh_config).unwrap_or_else(|_| ssh_config.clone());
    let old = match fs::read_to_string(&target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let next = included(&old, file);
    if let Some(next) = &next {
        let mode = fs::metadata(&target).map_or(0o600, |data| data.permissions().mode() & 0o777);
        replace(&target, next, mode)?;
    }
    Ok(Installed {
        file: file.to_owned(),
        ssh_config,
        changed: next.is_some(),
    })
}

/// The user's file with ours included, when it is not. First of all: what follows a `Host` line would
/// belong to that host.
fn included(old: &str, file: &Path) -> Option<String> {
    let line = format!("Include {}", quoted(file));
    let there = old.lines().any(|known| known.trim() == line);
    let gap = if old.is_empty() { "" } else { "\n" };
    (!there).then(|| format!("{line}\n{gap}{old}"))
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let next = path.with_extension("banger-partial");
    let _ = fs::remove_file(&next);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&next, path)
}

/// Settings as ssh_config(5) has them.
fn render(access: &SshAccess, program: &Path) -> String {
    format!(
        "# Written by `banger vm ssh-config`: every VM by its name, over vsock.\n\
         Host *.vm\n\
         \x20 User {user}\n\
         \x20 IdentityFile {key}\n\
         \x20 IdentitiesOnly yes\n\
         \x20 UserKnownHostsFile {known}\n\
         \x20 GlobalKnownHostsFile /dev/null\n\
         \x20 StrictHostKeyChecking yes\n\
         \x20 ProxyCommand {proxy}\n",
        user = access.user,
        key = quoted(Path::new(&access.identity_file)),
        known = quoted(Path::new(&access.known_hosts)),
        proxy = proxy_command(program),
    )
}

/// What ssh runs for a connection to a VM.
pub(super) fn proxy_command(program: &Path) -> String {
    format!("{} vm ssh-proxy %n", for_shell(program))
}

/// A path as ssh takes it: in quotes, and a percent sign doubled.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%");
    format!("\"{text}\"")
}

/// A path as the user's shell takes it, which runs the command.
fn for_shell(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%");
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> SshAccess {
        SshAccess {
            user: "root".into(),
            identity_file: "/home/me/.config/banger/ssh/id_ed25519".into(),
            known_hosts: "/home/me/100%/known_hosts".into(),
        }
    }

    #[test]
    fn the_settings() {
        insta::assert_snapshot!(render(&access(), Path::new("/opt/it's/banger")));
    }

    #[test]
    fn the_users_file_gets_one_line_in_front_once() {
        let file = Path::new("/h/.config/banger/ssh/config");
        let first = included("Host a\n  User b\n", file).unwrap();
        assert_eq!(
            first,
            "Include \"/h/.config/banger/ssh/config\"\n\nHost a\n  User b\n"
        );
        assert_eq!(included(&first, file), None);
        assert!(included("", file).unwrap().ends_with("config\"\n"));
    }

    #[test]
    fn a_link_stays_and_permissions_too() {
        let dir = tempfile::tempdir().unwrap();
        let (home, file) = (dir.path(), dir.path().join("c/ssh/config"));
        fs::create_dir(home.join(".ssh")).unwrap();
        fs::write(home.join("dotfile"), "Host x\n").unwrap();
        fs::set_permissions(home.join("dotfile"), fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink("../dotfile", home.join(".ssh/config")).unwrap();
        let installed = install(home, &file, "text").unwrap();
        assert!(installed.changed);
        crate::documented::assert_documented("settings", &serde_json::to_value(installed).unwrap());
        assert!(!install(home, &file, "text").unwrap().changed);
        assert!(
            fs::symlink_metadata(home.join(".ssh/config"))
                .unwrap()
                .is_symlink()
        );
        let text = fs::read_to_string(home.join("dotfile")).unwrap();
        assert!(
            text.starts_with("Include ") && text.ends_with("Host x\n"),
            "{text}"
        );
        let mode = fs::metadata(home.join("dotfile"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o644);
        let fresh = tempfile::tempdir().unwrap();
        assert!(install(fresh.path(), &file, "text").unwrap().changed);
        let mode = fs::metadata(fresh.path().join(".ssh"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
