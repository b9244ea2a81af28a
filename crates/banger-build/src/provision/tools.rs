//! Tools that banger knows how to put into an image, each in one version.

use std::fmt;
use std::str::FromStr;

use banger_core::nearest;

/// A tool. The order is that of their installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// Docker Engine, started with the first question to it.
    Docker,
    /// tmux, whose sessions are saved and restored on request.
    Tmux,
    /// mise, active in shells.
    Mise,
    /// opencode, which the agent has served on port 4096.
    Opencode,
    /// Claude Code.
    Claude,
    /// pi.
    Pi,
}

/// What is no tool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no tool `{given}`{}; tools: {}", hint.as_ref().map_or(String::new(), |near| format!(", did you mean `{near}`")), Tool::ALL.map(Tool::as_str).join(", "))]
pub struct ParseToolError {
    given: String,
    hint: Option<&'static str>,
}

impl Tool {
    /// Every tool.
    pub const ALL: [Self; 6] = [
        Self::Docker,
        Self::Tmux,
        Self::Mise,
        Self::Opencode,
        Self::Claude,
        Self::Pi,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Tmux => "tmux",
            Self::Mise => "mise",
            Self::Opencode => "opencode",
            Self::Claude => "claude",
            Self::Pi => "pi",
        }
    }

    /// What installs it, after the common functions.
    pub(crate) fn script(self) -> String {
        let node = include_str!("node.sh");
        match self {
            Self::Docker => include_str!("docker.sh").to_owned(),
            Self::Tmux => include_str!("tmux.sh").to_owned(),
            Self::Mise => format!("{node}\n{}", include_str!("mise.sh")),
            Self::Opencode => format!("{node}\ntool opencode-ai 1.18.33 opencode\n"),
            Self::Claude => format!("{node}\ntool @anthropic-ai/claude-code 2.1.332 claude\n"),
            Self::Pi => format!("{node}\ntool @mariozechner/pi-coding-agent 0.73.1 pi\n"),
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tool {
    type Err = ParseToolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|tool| tool.as_str() == text);
        found.ok_or_else(|| ParseToolError {
            given: text.chars().take(40).flat_map(char::escape_debug).collect(),
            hint: nearest(text, Self::ALL.map(Self::as_str)),
        })
    }
}
