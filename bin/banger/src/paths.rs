//! Where everything is: from the environment and from where this program lies. Pure but for the
//! environment.

use std::path::{Path, PathBuf};

use banger_install::{HELPER_DIR, RUNTIME_DIR, Record, STATE_DIR, lib_dir};

/// Set to use the daemons of this build, also where banger is installed for the whole host.
pub(crate) const CHECKOUT: &str = "BANGER_CHECKOUT";

/// All paths of a checkout run, an installation in a home, or one of the whole host.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// Whom the whole host's installation serves: then systemd starts the daemons, and nobody else.
    pub(crate) installed_for: Option<String>,
    /// Holds the owner API's socket.
    pub(crate) runtime_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) config_dir: PathBuf,
    /// What may be lost: this program's own, not the daemon's.
    pub(crate) cache_dir: PathBuf,
    /// The helper's own folder, root's.
    pub(crate) helper_dir: PathBuf,
    /// Holds `bangerd`, `bangerd-root`, `banger-vhost-vsock`.
    pub(crate) programs: PathBuf,
    /// The guest agent.
    pub(crate) agent: PathBuf,
    /// The ssh server for guests without one.
    pub(crate) sshd: PathBuf,
}

impl Paths {
    /// From this process's environment.
    pub(crate) fn from_env() -> std::io::Result<Self> {
        let uid = rustix::process::getuid().as_raw();
        let executable = std::env::current_exe()?;
        Ok(Self::new(uid, &executable, |name| {
            std::env::var_os(name).map(PathBuf::from)
        }))
    }

    fn new(uid: u32, executable: &Path, get: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let home = get("HOME").unwrap_or_else(|| "/".into());
        let xdg = |name: &str, default: &str| xdg(get(name), &home, default);
        let runtime_dir = match get("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()) {
            Some(dir) => dir.join("banger"),
            None => PathBuf::from(format!("/tmp/banger-{uid}")),
        };
        let programs = executable.parent().unwrap_or(Path::new("/")).to_owned();
        let helper_dir =
            PathBuf::from(format!("/run/banger-root/{uid}-{:08x}", hash(&runtime_dir)));
        Self {
            installed_for: None,
            state_dir: xdg("XDG_STATE_HOME", ".local/state"),
            config_dir: xdg("XDG_CONFIG_HOME", ".config"),
            cache_dir: xdg("XDG_CACHE_HOME", ".cache"),
            agent: programs.join("../lib/banger/banger-vsock-agent"),
            sshd: programs.join("../lib/banger/banger-sshd"),
            runtime_dir,
            helper_dir,
            programs,
        }
    }

    /// Of the whole host's installation.
    pub(crate) fn installed(record: &Record) -> Self {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let lib = lib_dir(&record.prefix);
        Self {
            installed_for: Some(record.owner.name.clone()),
            runtime_dir: RUNTIME_DIR.into(),
            state_dir: STATE_DIR.into(),
            config_dir: record.owner.home.join(".config/banger"),
            cache_dir: xdg(cache, &record.owner.home, ".cache"),
            helper_dir: HELPER_DIR.into(),
            agent: lib.join("banger-vsock-agent"),
            sshd: lib.join("banger-sshd"),
            programs: lib,
        }
    }

    /// Where commands put what they need only while they run.
    pub(crate) fn staging(&self) -> PathBuf {
        self.cache_dir.join("staging")
    }

    /// The owner API's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime_dir.join("bangerd.sock")
    }

    /// The helper's socket.
    pub(crate) fn helper_socket(&self) -> PathBuf {
        self.helper_dir.join("helper.sock")
    }

    /// Another program of banger's.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// banger's part of a folder that a variable names. The XDG specification: a relative path is to be ignored.
fn xdg(given: Option<PathBuf>, home: &Path, default: &str) -> PathBuf {
    given
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| home.join(default))
        .join("banger")
}

/// FNV-1a: the same owner with two runtime directories has two helpers.
fn hash(path: &Path) -> u32 {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(env: &[(&str, &str)]) -> Paths {
        Paths::new(1000, Path::new("/opt/x/bin/banger"), |name| {
            env.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| PathBuf::from(value))
        })
    }

    #[test]
    fn the_environment_decides_and_relative_paths_do_not_count() {
        let all = paths(&[
            ("HOME", "/h"),
            ("XDG_RUNTIME_DIR", "/r"),
            ("XDG_STATE_HOME", "state"),
        ]);
        assert_eq!(all.socket(), Path::new("/r/banger/bangerd.sock"));
        assert_eq!(all.state_dir, Path::new("/h/.local/state/banger"));
        assert_eq!(all.staging(), Path::new("/h/.cache/banger/staging"));
        assert_eq!(paths(&[]).runtime_dir, Path::new("/tmp/banger-1000"));
        assert_ne!(all.helper_dir, paths(&[]).helper_dir);
    }
}
