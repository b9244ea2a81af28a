//! A banger of its own: the same programs with other directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Banger, Finished};

/// Directories of their own, without helper or guests at first. Its daemon ends with the value.
#[derive(Debug)]
pub struct Elsewhere {
    home: tempfile::TempDir,
    state: PathBuf,
    banger: Banger,
}

impl Elsewhere {
    /// Everything in a new folder.
    ///
    /// # Panics
    /// When the folders cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let mut elsewhere = Self::with_state(Path::new("/"));
        elsewhere.state = elsewhere.path("state");
        elsewhere
    }

    /// The same with its state below that folder, and a bridge of its own beside the others'.
    ///
    /// # Panics
    /// When the folders cannot be made.
    #[must_use]
    pub fn with_state(state: &Path) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let config = home.path().join("config/banger");
        fs::create_dir_all(&config).expect("a folder");
        fs::create_dir(home.path().join("run")).expect("a folder");
        Self {
            home,
            state: state.to_owned(),
            banger: Banger::from_env(),
        }
    }

    /// The programs.
    #[must_use]
    pub fn banger(&self) -> &Banger {
        &self.banger
    }

    /// A path below its folder: `config/banger`, `run/banger`, `state/banger`.
    #[must_use]
    pub fn path(&self, inner: &str) -> PathBuf {
        self.home.path().join(inner)
    }

    /// banger's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.state.join("banger")
    }

    /// Copies an image and the kernels of the common state: making them takes minutes.
    ///
    /// # Panics
    /// When they are not there or cannot be copied.
    pub fn copy_artefacts(&self, image: &str) {
        use std::os::unix::fs::DirBuilderExt;
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(self.state_dir()).expect("a folder");
        fs::create_dir_all(self.state_dir().join("images")).expect("a folder");
        for artefacts in [format!("images/{image}"), "kernels".to_owned()] {
            let theirs = self.banger.state_dir().join(&artefacts);
            let mut copy = Command::new("cp");
            copy.args(["-a", "--sparse=always"]).arg(theirs);
            copy.arg(self.state_dir().join(&artefacts));
            assert!(copy.status().expect("cp starts").success(), "{artefacts}");
        }
    }

    /// A `banger` command with these directories, not started yet.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.banger.command(args);
        for (name, folder) in [
            ("XDG_CONFIG_HOME", self.path("config")),
            ("XDG_STATE_HOME", self.state.clone()),
            ("XDG_CACHE_HOME", self.path("cache")),
            ("XDG_RUNTIME_DIR", self.path("run")),
        ] {
            command.env(name, folder);
        }
        command
    }

    /// Runs `banger ARGS` to its end.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Finished {
        self.command(args).output().expect("banger starts").into()
    }
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.command(&["daemon", "stop"]).output();
    }
}
