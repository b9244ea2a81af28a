//! Running git.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why git did not do it.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// It cannot be started.
    #[error("git could not be started")]
    Start(#[source] std::io::Error),
    /// It failed.
    #[error("`git {args}` failed: {stderr}")]
    Failed {
        /// What it was asked.
        args: String,
        /// What it said.
        stderr: String,
    },
}

/// Whether that is what git, or a program beside it, says when it finds no room.
#[must_use]
pub fn says_disk_full(said: &str) -> bool {
    let words = [
        "No space left on device",
        "Out of diskspace",
        "Disk quota exceeded",
    ];
    words.iter().any(|words| said.contains(words))
}

impl GitError {
    /// Whether git refused because the repository belongs to another user (`safe.directory`, git-config(1)).
    #[must_use]
    pub fn is_of_another_user(&self) -> bool {
        matches!(self, Self::Failed { stderr, .. } if stderr.contains("dubious ownership"))
    }

    /// Whether there was no room here for what git writes.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Failed { stderr, .. } if says_disk_full(stderr))
    }
}

/// git in a folder.
#[derive(Debug, Clone)]
pub struct Git {
    folder: PathBuf,
    env: Vec<(OsString, OsString)>,
}

impl Git {
    /// In that folder. Nothing is fetched behind the caller's back, nothing asks on the terminal, and
    /// nothing is written just because something was looked at.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let env = [
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("LC_ALL", "C"),
        ];
        Self {
            folder: folder.into(),
            env: env.map(|(name, value)| (name.into(), value.into())).into(),
        }
    }

    /// The same with one more variable.
    #[must_use]
    pub fn with(&self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let mut more = self.clone();
        more.env.push((name.into(), value.as_ref().to_owned()));
        more
    }

    /// The same with what it writes of objects in a folder of its own; those of the repository it sees all the same.
    ///
    /// # Errors
    /// [`GitError`] when the repository cannot say where they are.
    pub(crate) fn writing_to(&self, objects: &Path) -> Result<Self, GitError> {
        let ours = self.path(&["rev-parse", "--git-path", "objects"])?;
        // A list; quoted as in C, a path may have any bytes.
        let mut list = b"\"".to_vec();
        for byte in ours.as_os_str().as_bytes() {
            match byte {
                b'"' | b'\\' => list.extend([b'\\', *byte]),
                b'\n' => list.extend(b"\\n"),
                _ => list.push(*byte),
            }
        }
        list.push(b'"');
        let mut more = self.with("GIT_OBJECT_DIRECTORY", objects);
        let list = OsString::from_vec(list);
        more.env
            .push(("GIT_ALTERNATE_OBJECT_DIRECTORIES".into(), list));
        Ok(more)
    }

    /// Where it runs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it prints.
    ///
    /// # Errors
    /// [`GitError`] when it fails.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Vec<u8>, GitError> {
        self.run_with(args, &[])
    }

    /// What it prints, given something on its standard input.
    ///
    /// # Errors
    /// [`GitError`] when it fails.
    pub fn run_with<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Result<Vec<u8>, GitError> {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(GitError::Start)?;
        // Nothing to say: it is closed at once.
        let stdin = child.stdin.take().filter(|_| !input.is_empty());
        let output = std::thread::scope(|scope| {
            if let Some(mut stdin) = stdin {
                scope.spawn(move || {
                    // It may end before it has read all; then it says why.
                    let _ = stdin.write_all(input);
                });
            }
            child.wait_with_output().map_err(GitError::Start)
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let words: Vec<_> = args
            .iter()
            .map(|arg| arg.as_ref().to_string_lossy())
            .collect();
        Err(GitError::Failed {
            args: words.join(" "),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// The command, for a caller that gives it other ends.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new("git");
        // What a hook or an outer git of the caller's has set would lead elsewhere.
        for name in [
            "GIT_DIR",
            "GIT_WORK_TREE",
            "GIT_INDEX_FILE",
            "GIT_PREFIX",
            "GIT_COMMON_DIR",
        ] {
            command.env_remove(name);
        }
        command
            .arg("-C")
            .arg(&self.folder)
            .args(args)
            .envs(self.env.iter().cloned());
        command
    }

    /// What it prints, as a path: any bytes but the end of the line.
    ///
    /// # Errors
    /// [`GitError`] when it fails.
    pub fn path<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<PathBuf, GitError> {
        let output = self.run(args)?;
        let path = output.strip_suffix(b"\n").unwrap_or(&output);
        Ok(self.folder.join(OsStr::from_bytes(path)))
    }

    /// What it prints, as one line of text.
    ///
    /// # Errors
    /// [`GitError`] when it fails.
    pub fn line<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String, GitError> {
        let output = self.run(args)?;
        Ok(String::from_utf8_lossy(&output).trim_end().to_owned())
    }

    /// The same, when it succeeds and says something.
    #[must_use]
    pub fn maybe<S: AsRef<OsStr>>(&self, args: &[S]) -> Option<String> {
        self.line(args).ok().filter(|line| !line.is_empty())
    }
}
