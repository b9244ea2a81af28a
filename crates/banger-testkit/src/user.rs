//! An ordinary user with subordinate ids, for tests that run as root: known in a mount namespace of its
//! own, so that nothing of the host changes.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

const UID: u32 = 61_234;
const FIRST_SUBORDINATE: u32 = 700_000_000;

/// A user that has a home and 65536 subordinate ids.
#[derive(Debug)]
pub struct OrdinaryUser {
    folder: tempfile::TempDir,
}

impl OrdinaryUser {
    /// The user's id.
    pub const UID: u32 = UID;

    /// The user, with an empty home.
    ///
    /// # Errors
    /// The files that name the user cannot be made.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("banger-user-").tempdir()?;
        let user = Self { folder };
        fs::set_permissions(user.folder.path(), fs::Permissions::from_mode(0o755))?;
        let home = user.home();
        fs::create_dir(&home)?;
        chown(&home, Some(UID), Some(UID))?;
        let line = format!("ordinary:x:{UID}:{UID}::{}:/bin/sh\n", home.display());
        user.write("passwd", &line)?;
        user.write("group", &format!("ordinary:x:{UID}:\n"))?;
        for name in ["subuid", "subgid"] {
            user.write(name, &format!("ordinary:{FIRST_SUBORDINATE}:65536\n"))?;
        }
        Ok(user)
    }

    fn write(&self, name: &str, line: &str) -> io::Result<()> {
        let mut text = fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        text.push_str(line);
        fs::write(self.folder.path().join(name), text)
    }

    /// The user's home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A copy of a program that the user can run, wherever the original lies.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn lend(&self, program: &Path) -> io::Result<PathBuf> {
        let copy = self
            .folder
            .path()
            .join(program.file_name().unwrap_or_default());
        fs::copy(program, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        Ok(copy)
    }

    /// A command that runs as this user, with nothing of root's left.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let script = "dir=$1; shift
            for name in passwd group subuid subgid; do mount --bind \"$dir/$name\" \"/etc/$name\"; done
            uid=$1; shift
            exec setpriv --reuid=\"$uid\" --regid=\"$uid\" --clear-groups --inh-caps=-all --bounding-set=+all -- \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-ec",
                script,
                "sh",
            ])
            .arg(self.folder.path())
            .arg(UID.to_string())
            .arg(program)
            .env("HOME", self.home())
            .env("TMPDIR", self.home())
            .current_dir("/");
        command
    }
}
