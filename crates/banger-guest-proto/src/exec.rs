//! Starting a program, and how it ended.

use serde::{Deserialize, Serialize};

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// A program to start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments; a name without `/` is looked up in the program's `PATH`. Empty: the
    /// user's login shell.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Set on top of the login environment and the VM's; the later of two with one name counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
    /// Working directory. Without: the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Without `cwd`: the first of these that is a directory. Older agents do not look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cwd_among: Vec<String>,
    /// The user's name in the guest, or a numeric id. Without: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With a terminal: its first size. Without: pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// `TERM` of the program, with a terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<String>,
    /// Nothing is written to standard input: it is `/dev/null` from the start.
    #[serde(default)]
    pub no_stdin: bool,
    /// A program of banger's own: the VM's environment is not for it. Older agents have none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
}

impl ExecRequest {
    /// A program with pipes and the login environment.
    #[must_use]
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// The same for banger's own purposes: without the VM's environment.
    #[must_use]
    pub fn own<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            own: true,
            ..Self::new(argv)
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal (Linux number, x86-64) ended it.
    Signal(u8),
}

impl ExitStatus {
    /// The code a shell would report: a signal's number plus 128.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => number.saturating_add(128),
        }
    }

    /// Whether it exited with 0.
    #[must_use]
    pub const fn success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}
