//! Steps of a build, and the keys under which their results are kept.

use banger_core::Digest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// What one instruction does to the file system of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The instruction, for people.
    pub title: String,
    /// Its line in the Dockerfile.
    pub line: Option<usize>,
    /// What is done.
    pub action: Action,
}

/// What is done in the builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// A program runs.
    Run(RunStep),
    /// Files are copied.
    Copy(CopyStep),
    /// A folder is there afterwards.
    Folder {
        /// Absolute.
        path: String,
    },
}

/// A program in the builder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunStep {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Environment that makes no other result of it: proxies.
    #[serde(skip)]
    pub env_unkeyed: Vec<(String, String)>,
    /// Folder that it starts in; absolute.
    pub cwd: String,
    /// Who runs it; `None` is root.
    pub user: Option<String>,
    /// A program that is put into the guest first, and is not part of the image: it is what runs, `argv` are its
    /// arguments.
    pub script: Option<String>,
}

/// Files that are copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyStep {
    /// From where.
    pub from: CopyFrom,
    /// Paths or patterns, relative to there.
    pub sources: Vec<String>,
    /// Files given in the Dockerfile itself: name and content.
    pub inline: Vec<(String, String)>,
    /// Absolute; with a slash at its end it is a folder.
    pub dest: String,
    /// `user`, `user:group`, names or numbers.
    pub chown: Option<String>,
    /// Octal mode.
    pub chmod: Option<u16>,
    /// It was an `ADD`, which would unpack archives.
    pub add: bool,
}

/// Where files are copied from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyFrom {
    /// The build's context.
    Context,
    /// An earlier stage.
    Stage(usize),
}

/// Names a state of a builder: a digest of all that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Where a stage begins.
    #[must_use]
    pub fn root(base: &str) -> Self {
        Self::of(&["base", base])
    }

    /// After a step: `content` is the digest of what was copied, or the key of the stage that it was copied from.
    #[must_use]
    pub fn after(&self, action: &Action, content: &str) -> Self {
        let action = serde_json::to_string(action).unwrap_or_default();
        Self::of(&["step", &self.0, &action, content])
    }

    /// The image that is made of the state, with all that is written down of it.
    #[must_use]
    pub fn finished(&self, how: &str) -> Self {
        Self::of(&["image", &self.0, how])
    }

    fn of(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Self(Digest::of_sha256(hash.finalize().into()).to_string())
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Action {
        Action::Run(RunStep {
            argv: vec![text.to_owned()],
            ..RunStep::default()
        })
    }

    #[test]
    fn all_that_leads_to_a_state_is_in_its_key_and_nothing_else() {
        let base = Key::root("a");
        assert_ne!(base, Key::root("b"));
        let one = base.after(&run("x"), "");
        assert_eq!(one, Key::root("a").after(&run("x"), ""));
        for other in [
            Key::root("b").after(&run("x"), ""),
            base.after(&run("y"), ""),
            base.after(&run("x"), "1"),
            one.after(&run("x"), ""),
            base.finished("x"),
        ] {
            assert_ne!(one, other);
        }
        let Action::Run(mut proxied) = run("x") else {
            unreachable!()
        };
        proxied.env_unkeyed = vec![("http_proxy".into(), "p".into())];
        assert_eq!(one, base.after(&Action::Run(proxied), ""));
        assert_eq!(one.as_str().len(), 64);
    }
}
