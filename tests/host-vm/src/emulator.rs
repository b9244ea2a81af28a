//! The QEMU that emulates the host's machine.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the program; without it, one is got or the machine's is used.
const VARIABLE: &str = "BANGER_HOST_QEMU";

/// The machine's own.
const INSTALLED: &str = "qemu-system-x86_64";

/// From this major version on the machine's own is good enough; what is bad before, the script says.
const GOOD: u32 = 9;

/// A QEMU program.
#[derive(Debug, Clone)]
pub(crate) struct Emulator(OsString);

impl Emulator {
    /// The one that is named, else the machine's when it is new enough, else one that
    /// `tests/host-vm/disk/emulator` gets. When that cannot be had, the machine's, which is said.
    pub(crate) fn ensure(repo: &Path, root: &Path) -> Self {
        if let Some(named) = std::env::var_os(VARIABLE) {
            return Self(named);
        }
        let major = version(OsStr::new(INSTALLED));
        if major >= Some(GOOD) {
            return Self(INSTALLED.into());
        }
        match fetched(repo, root) {
            Some(program) => Self(program.into()),
            None => {
                println!(
                    "host-vm: no newer QEMU to be had (see above); this machine's will be slow and may crash"
                );
                Self(INSTALLED.into())
            }
        }
    }

    /// The program.
    pub(crate) fn program(&self) -> &OsStr {
        &self.0
    }
}

fn fetched(repo: &Path, root: &Path) -> Option<PathBuf> {
    let folder = root.join("emulator");
    let program = folder.join("qemu");
    if version(program.as_os_str()).is_none() {
        let script = repo.join("tests/host-vm/disk/emulator");
        let got = Command::new(script).arg(&folder).status();
        got.ok().filter(std::process::ExitStatus::success)?;
    }
    program.canonicalize().ok()
}

/// Its major version, when it runs.
fn version(program: &OsStr) -> Option<u32> {
    let output = Command::new(program).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<u32> {
    let version = text.strip_prefix("QEMU emulator version ")?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_version_is_read() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        assert_eq!(parse_version(debian), Some(7));
        assert_eq!(parse_version("QEMU emulator version 10.0.2\n"), Some(10));
        for other in ["", "QEMU emulator version ", "qemu 10.0"] {
            assert_eq!(parse_version(other), None, "{other}");
        }
    }
}
