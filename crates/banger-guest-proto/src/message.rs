//! Control messages. Tagged by `type`; unknown fields are ignored (see the crate's documentation).

use serde::{Deserialize, Serialize};

use crate::{
    ExecRequest, ExitStatus, Figures, FilesDone, ForwardReply, ForwardRequest, GetFiles, GetPaths,
    Listeners, PutFiles, Readiness, SessionReply, SessionRequest, Status, Stream, TtySize,
};

/// What both sides say first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The speaker's newest generation; both use the smaller one.
    pub generation: u32,
    /// The speaker's version of banger, for people.
    pub version: String,
}

impl Hello {
    /// This build's hello.
    #[must_use]
    pub fn ours() -> Self {
        Self {
            generation: crate::GENERATION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The generation that both sides understand.
    #[must_use]
    pub fn common_generation(&self) -> u32 {
        self.generation.min(crate::GENERATION)
    }
}

/// How a guest shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownVerb {
    /// The VM is stopped afterwards.
    Poweroff,
    /// The VM is started again afterwards.
    Reboot,
}

impl ShutdownVerb {
    /// The word on the wire and in the farewell line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Poweroff => "poweroff",
            Self::Reboot => "reboot",
        }
    }
}

/// From the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// First on every connection.
    Hello(Hello),
    /// Answered by [`AgentMessage::Pong`] at once.
    Ping,
    /// Answered by [`AgentMessage::Status`].
    Status,
    /// Answered by [`AgentMessage::Status`] as soon as the guest is that far.
    Wait {
        /// What to wait for.
        readiness: Readiness,
    },
    /// Starts a program. Answered by [`AgentMessage::ExecStarted`] or [`AgentMessage::Error`].
    Exec(ExecRequest),
    /// Exec: standard input has ended. Needs no credit.
    StdinEof,
    /// Exec: the terminal's size has changed.
    Resize(TtySize),
    /// Exec: a signal for the program (its process group; with a terminal the foreground one).
    Signal {
        /// Linux signal number, as on x86-64 (signal(7)).
        number: i32,
    },
    /// Exec: nobody reads that output any more. The program's next write to it fails, as it would
    /// on a pipe.
    CloseOutput {
        /// Which.
        stream: Stream,
    },
    /// Sends trees of files. Generation 3.
    GetFiles(GetFiles),
    /// Sends or lists what stands at given paths. Generation 3.
    GetPaths(GetPaths),
    /// Takes a tree of files. Generation 3.
    PutFiles(PutFiles),
    /// Ends the guest. Answered by [`AgentMessage::ShuttingDown`] when it has begun.
    Shutdown {
        /// How.
        verb: ShutdownVerb,
    },
    /// Generation 2. Answered by [`AgentMessage::Listeners`].
    Listeners,
    /// Generation 2. Answered by [`AgentMessage::Figures`].
    Figures,
    /// About sessions. Generation 4.
    Session(SessionRequest),
    /// About forwarding. Generation 4.
    Forward(ForwardRequest),
    /// Gives the VM this [`Environment`](crate::Environment), in place of the one it had: the agent keeps it over boots.
    /// Generation 5. Answered by [`AgentMessage::EnvironmentSet`].
    SetEnvironment {
        /// Names and values.
        variables: Vec<(String, String)>,
    },
}

impl ClientMessage {
    /// The generation that an agent must have to understand it.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        match self {
            Self::SetEnvironment { .. } => 5,
            Self::Session(_) | Self::Forward(_) => 4,
            Self::Listeners | Self::Figures => 2,
            Self::GetFiles(_) | Self::GetPaths(_) | Self::PutFiles(_) => 3,
            _ => 1,
        }
    }
}

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentMessage {
    /// First on every connection.
    Hello(Hello),
    /// To a ping.
    Pong,
    /// How the guest is.
    Status(Status),
    /// The program runs.
    ExecStarted {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Exec: no more standard output.
    StdoutEof,
    /// Exec: no more standard error.
    StderrEof,
    /// Exec: the program has ended; the connection's last message.
    Exited(ExitStatus),
    /// Files: the transfer is over; the connection's last message.
    FilesDone(FilesDone),
    /// The end has begun.
    ShuttingDown,
    /// Generation 2. Who listens in the guest.
    Listeners(Listeners),
    /// Generation 2. What the guest uses.
    Figures(Figures),
    /// About sessions. Generation 4.
    Session(SessionReply),
    /// About forwarding. Generation 4.
    Forward(ForwardReply),
    /// Generation 5. The VM's environment is kept.
    EnvironmentSet,
    /// The request was refused or failed.
    Error(AgentError),
}

/// Why the agent did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// What kind.
    pub code: AgentErrorCode,
    /// What happened, a sentence.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentErrorCode {
    /// The request makes no sense, or not at this point of the connection.
    BadRequest,
    /// The agent does not know that request.
    Unsupported,
    /// There is no such program (a shell would say 127).
    CommandNotFound,
    /// There is such a file, but it cannot be executed (a shell would say 126).
    NotExecutable,
    /// The program could not be started for another reason.
    ExecFailed,
    /// The program needs the guest's services, and they are still starting.
    StillBooting,
    /// The guest is going down.
    ShuttingDown,
    /// There is nothing at that path in the guest.
    FileNotFound,
    /// A file could not be read or written.
    FileFailed,
    /// A file system of the guest is full.
    DiskFull,
    /// There is nothing of that name.
    NotFound,
    /// The name is taken.
    NameTaken,
    /// Somebody else has it, or there are too many.
    Busy,
    /// Something in the agent failed.
    Internal,
    /// A kind that this build does not know yet.
    #[serde(other)]
    Unknown,
}
