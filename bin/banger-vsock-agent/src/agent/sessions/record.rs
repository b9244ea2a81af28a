//! What of a session outlives the agent: a small file beside its log.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use banger_guest_proto::{
    DEFAULT_LOG, ExecRequest, LogExtent, SessionInfo, SessionName, SessionSpec, SessionState,
    StdinMode, TtySize,
};
use serde::{Deserialize, Serialize};

use crate::agent::private_file;

const FILE: &str = "session.json";

/// The size of a terminal that nobody has looked at yet.
const TTY: TtySize = TtySize { rows: 24, cols: 80 };

/// A session as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) name: SessionName,
    pub(super) spec: SessionSpec,
    /// Names of the variables; their values are in the spec, and stored only when they are needed
    /// again after the agent's end.
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    pub(super) state: SessionState,
    pub(super) started_ms: u64,
    pub(super) ended_ms: Option<u64>,
    pub(super) runs: u32,
    pub(super) taken: u64,
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl Record {
    pub(super) fn new(name: SessionName, spec: SessionSpec, cwd: String) -> Self {
        Self {
            name,
            env: spec.env.iter().map(|(name, _)| name.clone()).collect(),
            spec,
            cwd,
            state: SessionState::Cut,
            started_ms: 0,
            ended_ms: None,
            runs: 0,
            taken: 0,
        }
    }

    pub(super) fn log_bytes(&self) -> u64 {
        self.spec.log_bytes.unwrap_or(DEFAULT_LOG)
    }

    /// The program to start.
    pub(super) fn exec(&self) -> ExecRequest {
        ExecRequest {
            env: self.spec.env.clone(),
            cwd: Some(self.cwd.clone()),
            tty: (self.spec.stdin_mode == StdinMode::Pty).then(|| self.spec.tty.unwrap_or(TTY)),
            term: self.spec.term.clone(),
            no_stdin: self.spec.stdin_mode == StdinMode::Detached,
            ..ExecRequest::new(self.spec.argv.iter().cloned())
        }
    }

    pub(super) fn info(&self, attached: bool, log: LogExtent) -> SessionInfo {
        SessionInfo {
            name: self.name.clone(),
            argv: self.spec.argv.clone(),
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            stdin_mode: self.spec.stdin_mode,
            restart: self.spec.restart,
            on_boot: self.spec.on_boot,
            state: self.state.clone(),
            started_ms: self.started_ms,
            ended_ms: self.ended_ms,
            runs: self.runs,
            attached,
            log,
        }
    }

    /// The record in that folder. One whose program ran was cut off by the guest's end.
    pub(super) fn load(folder: &Path) -> io::Result<Self> {
        let json = fs::read(folder.join(FILE))?;
        let mut record: Self = serde_json::from_slice(&json)?;
        if record.state.is_live() {
            record.state = SessionState::Cut;
        }
        Ok(record)
    }

    /// Stores it, in place of what was there.
    pub(super) fn store(&self, folder: &Path) -> io::Result<()> {
        let mut stored = self.clone();
        if !(stored.spec.on_boot && stored.state.is_live()) {
            stored.spec.env.clear();
        }
        private_file::replace(&folder.join(FILE), &serde_json::to_vec(&stored)?)
    }
}
