//! The contract between the host and the agent in a guest: frames on a vsock stream, JSON control
//! messages, and the config drive that tells a guest who it is.
//!
//! # A connection
//! The host connects to [`AGENT_PORT`]. Both sides speak [`Hello`] first; neither waits for the
//! other's before it goes on, so a client writes its hello and its first request at once. A
//! connection carries any number of [`Ping`](ClientMessage::Ping), [`Status`](ClientMessage::Status)
//! and [`Wait`](ClientMessage::Wait), one after the other; an [`Exec`](ClientMessage::Exec) takes it
//! over until its [`Exited`](AgentMessage::Exited), a transfer of files ([`GetFiles`], [`GetPaths`],
//! [`PutFiles`]; generation 3) until its [`FilesDone`](AgentMessage::FilesDone); so do attaching to a
//! [session](SessionRequest), reading its log, and [forwarding](ForwardRequest) (generation 4). There is
//! no half-close: every stream's end is a message.
//!
//! # Flow control
//! Standard input, output and error each have a window of [`INITIAL_WINDOW`] bytes. A sender never
//! has more data under way than the window; the receiver gives room back with [`Frame::Credit`] as
//! its consumer takes the data. A session's log has one window for both outputs, whose credit names
//! standard output: it comes in order. So both sides always read the connection: a reader that stalls
//! holds up its own stream, never signals, window sizes or the other streams.
//!
//! # Generations
//! A guest can run for years: the agent may be older than the host, and the reverse. [`GENERATION`]
//! counts changes that the other side must know about; both use the smaller of the two in the
//! hellos. Fields may be added freely (unknown ones are ignored); a new message or frame raises the
//! generation and is only sent to a peer of that generation or later. `tests/surface.txt` holds the
//! rendered messages of every generation; lines are added there, never changed.

mod config_drive;
mod environment;
mod exec;
mod figures;
mod files;
mod flow;
mod forward;
mod frame;
mod given;
mod guest_config;
mod message;
mod outbox;
mod path;
mod ports;
mod sequence;
mod session;
mod status;
mod tree;

pub use config_drive::{ConfigDriveError, MAX_CONFIG, decode, encode, encoded_size};
pub use environment::{BadEnvironment, Environment, MAX_ENVIRONMENT, MAX_VARIABLES};
pub use exec::{ExecRequest, ExitStatus, TtySize};
pub use figures::{Figures, FileSystem};
pub use files::{CHANGED, CUT_SHORT, FileProblem, FilesDone, GetFiles, GetPaths, PutFiles};
pub use flow::{ReceiveWindow, SendWindow, WindowExceeded};
pub use forward::{ForwardReply, ForwardRequest};
pub use frame::{
    Decoder, Frame, FrameError, MAX_FRAME, ReadFrameError, Stream, encode_control, encode_data,
    encode_frame, encode_record, read_frame,
};
pub use given::{
    FileKind, FileReader, FilesError, GuestFile, MAX_FILES, MAX_FILES_SIZE, append_files,
};
pub use guest_config::{GuestConfig, MachineId, ParseMachineIdError, SshHostKey};
pub use message::{AgentError, AgentErrorCode, AgentMessage, ClientMessage, Hello, ShutdownVerb};
pub use outbox::Outbox;
pub use path::{BadPath, MAX_PATH, RelPath, WirePath, shown};
pub use ports::{Listener, Listeners, MAX_LISTENERS, MAX_OWNER_NAME, Transport};
pub use sequence::{OutOfSequence, Sequence};
pub use session::{
    AttachRequest, DEFAULT_LOG, LogExtent, LogStart, LogsRequest, MAX_LOG, MAX_SESSION_NAME,
    MIN_LOG, ParseSessionNameError, RestartPolicy, SessionInfo, SessionName, SessionReply,
    SessionRequest, SessionSpec, SessionState, StdinMode,
};
pub use status::{InitKind, Readiness, Status};
pub use tree::{
    Entry, EntryKind, FileTime, MAX_CONTENT, ReadRecordError, Record, RecordReader, RecordWriter,
};

/// The generation of this build's protocol. See the crate's documentation for when to raise it.
///
/// 2: [`ClientMessage::Listeners`], [`ClientMessage::Figures`] and their answers.
/// 3: [`ClientMessage::GetFiles`], [`ClientMessage::GetPaths`], [`ClientMessage::PutFiles`], their answer,
/// and records.
/// 4: [`ClientMessage::Session`], [`ClientMessage::Forward`], their answers, and [`Frame::Record`].
/// 5: [`ClientMessage::SetEnvironment`] and its answer.
pub const GENERATION: u32 = 5;

/// The first generation that copies files.
pub const FILES_GENERATION: u32 = 3;

/// The vsock port that the agent listens on.
pub const AGENT_PORT: u32 = 1024;

/// How many bytes of one stream may be under way before the receiver gives [`Frame::Credit`].
pub const INITIAL_WINDOW: u32 = 1 << 20;

/// The most data that one data frame carries, in bytes. Smaller than the window, so that a
/// stream's frames interleave with the others'.
pub const MAX_DATA: usize = 64 << 10;

/// What the last line of a guest's life on its console starts with; `poweroff` or `reboot` follows.
pub const FAREWELL: &str = "banger-farewell: ";

/// What the line starts with that says why a guest did not boot. No farewell follows, only a reset.
pub const BOOT_FAILED: &str = "banger: boot failed: ";
