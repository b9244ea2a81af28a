//! The programs beside the command line: what is copied to the host.

use std::path::{Path, PathBuf};

/// Where each program is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `banger`.
    pub cli: PathBuf,
    /// `bangerd`.
    pub daemon: PathBuf,
    /// `bangerd-root`.
    pub helper: PathBuf,
    /// `banger-vhost-vsock`.
    pub vhost_vsock: PathBuf,
    /// `banger-vsock-agent`.
    pub agent: PathBuf,
    /// `banger-sshd`.
    pub sshd: PathBuf,
    /// `firecracker`, when it comes along.
    pub firecracker: Option<PathBuf>,
}

/// A program is not where it must be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramsError {
    /// Not built, or not installed beside the command line.
    #[error("`{name}` is neither beside {} nor in lib/banger", beside.display())]
    Missing {
        /// The program.
        name: &'static str,
        /// The command line's own path.
        beside: PathBuf,
    },
    /// Not a file that can be executed.
    #[error("{} is not an executable file", .0.display())]
    NotExecutable(PathBuf),
}

impl Programs {
    /// Looks beside the running command line, and in `lib/banger` beside its folder.
    ///
    /// # Errors
    /// The first that is missing or no program.
    pub fn beside(executable: &Path, firecracker: Option<&Path>) -> Result<Self, ProgramsError> {
        let bin = executable.parent().unwrap_or(Path::new("/"));
        let lib = bin.parent().unwrap_or(Path::new("/")).join("lib/banger");
        // In a build folder the agent's lib is inside the target folder: `target/release/../lib`.
        let find = |name: &'static str| {
            let found = [bin.join(name), lib.join(name)]
                .into_iter()
                .find(|path| path.exists());
            let path = found.ok_or(ProgramsError::Missing {
                name,
                beside: executable.to_owned(),
            })?;
            executable_file(&path)
        };
        Ok(Self {
            cli: executable_file(executable)?,
            daemon: find("bangerd")?,
            helper: find("bangerd-root")?,
            vhost_vsock: find("banger-vhost-vsock")?,
            agent: find("banger-vsock-agent")?,
            sshd: find("banger-sshd")?,
            firecracker: firecracker.map(executable_file).transpose()?,
        })
    }
}

fn executable_file(path: &Path) -> Result<PathBuf, ProgramsError> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_program = std::fs::metadata(path)
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    match is_program {
        true => Ok(path.to_owned()),
        false => Err(ProgramsError::NotExecutable(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn put(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn all_are_found_in_a_build_folder_and_each_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let cli = dir.path().join("release/banger");
        for name in ["banger", "bangerd", "bangerd-root", "banger-vhost-vsock"] {
            put(&cli.with_file_name(name), 0o755);
        }
        let missing = Programs::beside(&cli, None).unwrap_err();
        assert!(
            missing.to_string().starts_with("`banger-vsock-agent`"),
            "{missing}"
        );
        for name in ["banger-vsock-agent", "banger-sshd"] {
            put(&dir.path().join("lib/banger").join(name), 0o755);
        }
        let programs = Programs::beside(&cli, None).unwrap();
        assert_eq!(programs.daemon, cli.with_file_name("bangerd"));
        let fc = dir.path().join("fc");
        put(&fc, 0o644);
        assert_eq!(
            Programs::beside(&cli, Some(&fc)),
            Err(ProgramsError::NotExecutable(fc))
        );
        let nowhere = Path::new("/nowhere/firecracker");
        assert!(Programs::beside(&cli, Some(nowhere)).is_err());
    }
}
