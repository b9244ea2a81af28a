//! Sessions: programs that the agent keeps for clients, with their output in a bounded log
//! (`docs/sessions.md`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ExitStatus, Stream, TtySize};

/// The longest name of a session, in bytes.
pub const MAX_SESSION_NAME: usize = 63;

/// A session's name: letters, digits, `_`, `.` and `-`, the first a letter or digit. So it can
/// stand in a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(String);

/// A text that is no session's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no name for a session: letters, digits, `_`, `.` and `-`, at most {MAX_SESSION_NAME}, beginning with a letter or digit",
    text.escape_debug()
)]
pub struct ParseSessionNameError {
    text: String,
}

impl SessionName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name made of a program's: what cannot stand in one is left out.
    #[must_use]
    pub fn of_program(program: &str) -> Self {
        let base = program.rsplit('/').next().unwrap_or_default();
        let plain = base.chars().filter(|c| is_plain(*c));
        let name: String = plain
            .skip_while(|c| !c.is_ascii_alphanumeric())
            .take(MAX_SESSION_NAME - 8)
            .collect();
        Self(if name.is_empty() {
            "session".to_owned()
        } else {
            name
        })
    }

    /// The same with a number behind it. A long name is shortened.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Self {
        let end = format!("-{number}");
        let room = MAX_SESSION_NAME.saturating_sub(end.len());
        let base = self.0.get(..room.min(self.0.len())).unwrap_or("session");
        Self(format!("{base}{end}"))
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

impl FromStr for SessionName {
    type Err = ParseSessionNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && text.len() <= MAX_SESSION_NAME && text.chars().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            let text = text.chars().take(2 * MAX_SESSION_NAME).collect();
            Err(ParseSessionNameError { text })
        }
    }
}

impl TryFrom<String> for SessionName {
    type Error = ParseSessionNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> Self {
        name.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a session's input comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdinMode {
    /// From nowhere: it cannot be attached to.
    #[default]
    Detached,
    /// From a pipe, which whoever is attached writes to.
    Pipe,
    /// From a terminal.
    Pty,
}

/// When a session's program is started again after its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    Never,
    /// When it ended by a signal or with another code than 0, and nobody asked for its end.
    OnFailure,
}

/// A session to start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSpec {
    /// Its name; without one the agent makes one of the program's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<SessionName>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Set on top of the login environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
    /// Working directory. Without: root's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Where its input comes from.
    #[serde(default)]
    pub stdin_mode: StdinMode,
    /// Commands that must be there, or it is not started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<String>,
    /// When it is started again.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// It is started again with the guest, when it ran as the guest ended.
    #[serde(default)]
    pub on_boot: bool,
    /// How many bytes its log may take on disk. Without: [`DEFAULT_LOG`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
    /// The first size of its terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// `TERM`, with a terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<String>,
    /// One of that name that has ended is deleted first.
    #[serde(default)]
    pub replace: bool,
}

/// The size of a log that nobody chose, in bytes.
pub const DEFAULT_LOG: u64 = 16 << 20;

/// The smallest log, in bytes: some windows of a client's.
pub const MIN_LOG: u64 = 4 << 20;

/// The largest log, in bytes.
pub const MAX_LOG: u64 = 16 << 30;

/// About sessions, from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "session", rename_all = "snake_case")]
pub enum SessionRequest {
    /// Starts one. Answered by [`SessionReply::Started`].
    Start(SessionSpec),
    /// Answered by [`SessionReply::List`].
    List,
    /// Answered by [`SessionReply::Info`].
    Show {
        /// Which.
        name: SessionName,
    },
    /// Ends it: SIGTERM, and SIGKILL after the grace. Answered by [`SessionReply::Info`] when it has
    /// ended.
    Stop {
        /// Which.
        name: SessionName,
        /// Milliseconds between the two.
        grace_ms: u64,
    },
    /// Sends a signal. Answered by [`SessionReply::Info`]; to SIGKILL when it has ended.
    Kill {
        /// Which.
        name: SessionName,
        /// Linux signal number, as on x86-64.
        signal: i32,
    },
    /// Forgets one that has ended, with its log. Answered by [`SessionReply::Deleted`].
    Delete {
        /// Which.
        name: SessionName,
    },
    /// Its log. Answered by [`SessionReply::Log`], [`Frame::Record`](crate::Frame::Record)s and
    /// [`SessionReply::Gap`]s, and last [`SessionReply::LogEnd`].
    Logs(LogsRequest),
    /// Its output as it comes, and the right to its input (`stdio_mux_v1`). Answered by
    /// [`SessionReply::Attached`], records and gaps, and last [`SessionReply::Ended`] or
    /// [`SessionReply::TakenOver`].
    Attach(AttachRequest),
}

/// Where in a log to begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStart {
    /// With the oldest byte there is.
    #[default]
    Oldest,
    /// After the newest.
    Newest,
    /// With what no attached client has taken yet.
    Untaken,
    /// With this byte.
    At(u64),
    /// With so many bytes before the end (or the oldest).
    Last(u64),
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequest {
    /// Whose.
    pub name: SessionName,
    /// From where on.
    #[serde(default)]
    pub from: LogStart,
    /// Only this stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// Go on until the session ends.
    #[serde(default)]
    pub follow: bool,
}

/// To be the one who is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// To which.
    pub name: SessionName,
    /// From where on.
    #[serde(default)]
    pub from: LogStart,
    /// Whoever is attached is detached first.
    #[serde(default)]
    pub take_over: bool,
    /// The client's terminal, for a session that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
}

/// How a session is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SessionState {
    /// Its program runs.
    Running {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Its program has failed and is started again after a pause.
    Restarting {
        /// How it failed.
        status: ExitStatus,
    },
    /// Its program has ended.
    Ended {
        /// How.
        status: ExitStatus,
        /// Somebody asked for it.
        asked: bool,
    },
    /// The guest ended while its program ran.
    Cut,
    /// Its program could not be started again.
    Failed {
        /// Why.
        why: String,
    },
}

impl SessionState {
    /// Whether its program runs, or will again.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Restarting { .. })
    }
}

/// What a log holds. Positions count the bytes of both outputs together since the session's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogExtent {
    /// Position of the oldest byte.
    pub first: u64,
    /// Position after the newest.
    pub end: u64,
    /// Position after what an attached client has taken.
    pub taken: u64,
}

/// All about a session. Values of its environment are not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its name.
    pub name: SessionName,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Names of the variables that were set for it.
    #[serde(default)]
    pub env: Vec<String>,
    /// Where its input comes from.
    pub stdin_mode: StdinMode,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// It is started again with the guest.
    pub on_boot: bool,
    /// How it is.
    #[serde(flatten)]
    pub state: SessionState,
    /// When its program was started, the last time: milliseconds since 1970, by the guest's clock.
    pub started_ms: u64,
    /// When its program ended, the last time.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// How often its program was started.
    pub runs: u32,
    /// Somebody is attached.
    pub attached: bool,
    /// What its log holds.
    pub log: LogExtent,
}

/// About sessions, from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "session", rename_all = "snake_case")]
pub enum SessionReply {
    /// It runs.
    Started(SessionInfo),
    /// Every session, by name.
    List {
        /// The sessions.
        sessions: Vec<SessionInfo>,
    },
    /// One session.
    Info(SessionInfo),
    /// It is forgotten.
    Deleted,
    /// The log follows.
    Log {
        /// Where it begins: the position of the first record, or of a gap before it.
        from: u64,
    },
    /// These bytes are not in the log any more.
    Gap {
        /// The first.
        from: u64,
        /// After the last.
        to: u64,
    },
    /// The log's end was reached; the connection's last message.
    LogEnd {
        /// Where to go on.
        next: u64,
    },
    /// The client is attached.
    Attached {
        /// The session.
        info: SessionInfo,
        /// Where its output begins.
        from: u64,
        /// How many bytes of input the session has taken so far, from all clients.
        input_taken: u64,
    },
    /// The program has been started again; input goes to the new one.
    Restarted {
        /// How often it was started now.
        runs: u32,
    },
    /// Somebody else is attached now; the connection's last message.
    TakenOver,
    /// The session has ended and all its output was sent; the connection's last message.
    Ended(SessionInfo),
}
