//! All sessions, by name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_guest_proto::{
    AgentErrorCode, AgentMessage, MAX_LOG, MIN_LOG, SessionInfo, SessionName, SessionSpec,
    SessionState,
};

use super::entry::Entry;
use super::group::Group;
use super::keeper;
use super::record::Record;
use super::{Refusal, refuse};
use crate::agent::start;
use crate::agent::state::State;

/// How many sessions may run at a time: each takes a thread and some descriptors.
const MAX_LIVE: usize = 64;

/// How many there may be, with those that have ended.
const MAX_KEPT: usize = 256;

/// A keeper does little on its stack; the kernel commits only what is touched.
const STACK: usize = 256 << 10;

type Table = BTreeMap<SessionName, Arc<Entry>>;

/// All sessions. They are read from disk when they are first asked for.
#[derive(Debug)]
pub(in crate::agent) struct Sessions {
    folder: PathBuf,
    table: Mutex<Option<Table>>,
}

fn load(folder: &Path) -> Table {
    let mut table = Table::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|n| n.parse::<SessionName>().ok()) else {
            continue;
        };
        // A folder whose start was cut off has no record: it goes when its name is used again.
        let record = Record::load(&entry.path()).ok();
        let Some(record) = record.filter(|record| record.name == name) else {
            continue;
        };
        let group = Group::of(&name);
        if let Ok(entry) = Entry::new(entry.path(), group, record) {
            table.insert(name, Arc::new(entry));
        }
    }
    table
}

/// The table, under its lock.
struct Locked<'a>(MutexGuard<'a, Option<Table>>, &'a Path);

impl Locked<'_> {
    fn table(&mut self) -> &mut Table {
        let folder = self.1;
        self.0.get_or_insert_with(|| load(folder))
    }
}

impl Sessions {
    pub(in crate::agent) fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            table: Mutex::new(None),
        }
    }

    fn lock(&self) -> Locked<'_> {
        let guard = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        Locked(guard, &self.folder)
    }

    pub(super) fn list(&self) -> Vec<SessionInfo> {
        let mut locked = self.lock();
        locked.table().values().map(|entry| entry.info()).collect()
    }

    pub(super) fn find(&self, name: &SessionName) -> Result<Arc<Entry>, Refusal> {
        let mut locked = self.lock();
        let found = locked.table().get(name).cloned();
        found.ok_or_else(|| {
            let what = format!("there is no session `{name}`");
            let hint = "`banger vm session list` shows what there is";
            refuse(AgentErrorCode::NotFound, what, Some(hint))
        })
    }

    /// Starts a session, when all that it needs is there.
    pub(super) fn start(
        &self,
        state: &Arc<State>,
        spec: SessionSpec,
    ) -> Result<SessionInfo, Refusal> {
        let bad = |what: String| refuse(AgentErrorCode::BadRequest, what, None);
        let Some(program) = spec.argv.first() else {
            return Err(bad("a session needs a command".to_owned()));
        };
        let size = spec.log_bytes.unwrap_or(MIN_LOG);
        if !(MIN_LOG..=MAX_LOG).contains(&size) {
            let what = format!("a log takes {MIN_LOG} to {MAX_LOG} bytes, not {size}");
            return Err(bad(what));
        }
        let mut locked = self.lock();
        let name = pick_name(locked.table(), spec.name.as_ref(), program);
        let cwd = start::check(&spec, state)?;
        let record = Record::new(name.clone(), spec, cwd);
        if let Some(other) = locked.table().get(&name) {
            may_replace(&other.info(), record.spec.replace)?;
        }
        let kept = locked.table();
        let live = kept.values().filter(|e| e.info().state.is_live()).count();
        if live >= MAX_LIVE || kept.len() >= MAX_KEPT {
            let what = format!("there are {} sessions, {live} of them running", kept.len());
            let hint = "`banger vm session delete` removes those that have ended";
            return Err(refuse(AgentErrorCode::Busy, what, Some(hint)));
        }
        kept.remove(&name);
        let entry = self.make(&name, record)?;
        let kept_entry = Arc::clone(&entry);
        if let Err(refusal) = begin(&entry, state) {
            let _ = fs::remove_dir_all(&entry.folder);
            entry.group.remove();
            return Err(refusal);
        }
        locked.table().insert(name, kept_entry);
        Ok(entry.info())
    }

    /// The session's folder and all in it, anew.
    fn make(&self, name: &SessionName, record: Record) -> Result<Arc<Entry>, Refusal> {
        let folder = self.folder.join(name.as_str());
        let made = || {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(&folder)?;
            let entry = Entry::new(folder.clone(), Group::of(name), record)?;
            // So that a full disk is told now, and not found out later.
            entry.lock().record.store(&folder)?;
            Ok(Arc::new(entry))
        };
        made().map_err(|error| {
            let _ = fs::remove_dir_all(&folder);
            let what = format!("failed to make {}: {error}", folder.display());
            refuse(AgentErrorCode::Internal, what, None)
        })
    }

    /// Forgets one that has ended.
    pub(super) fn delete(&self, name: &SessionName) -> Result<(), Refusal> {
        let entry = self.find(name)?;
        let mut locked = self.lock();
        if entry.info().state.is_live() {
            let what = format!("the session `{name}` runs");
            let hint = "`banger vm session stop` ends it";
            return Err(refuse(AgentErrorCode::Busy, what, Some(hint)));
        }
        locked.table().remove(name);
        fs::remove_dir_all(&entry.folder).map_err(|error| {
            let what = format!("failed to remove {}: {error}", entry.folder.display());
            refuse(AgentErrorCode::Internal, what, None)
        })
    }

    /// Starts what shall come back with the guest.
    pub(super) fn start_again(&self, state: &Arc<State>) {
        let mut locked = self.lock();
        for entry in locked.table().values() {
            let info = entry.info();
            if !info.on_boot || info.state != SessionState::Cut {
                continue;
            }
            if let Err(refusal) = begin(entry, state) {
                let why = match *refusal {
                    AgentMessage::Error(error) => error.message,
                    _ => "it was not started".to_owned(),
                };
                entry.set_state(SessionState::Failed { why });
            }
        }
    }
}

/// Starts the program, and the thread that keeps it.
fn begin(entry: &Arc<Entry>, state: &Arc<State>) -> Result<(), Refusal> {
    let program = keeper::start_program(entry, state)?;
    let (pid, shared, kept) = (program.pid, Arc::clone(state), Arc::clone(entry));
    let started = std::thread::Builder::new()
        .name("session".to_owned())
        .stack_size(STACK)
        .spawn(move || keeper::keep(&kept, &shared, program));
    started.map(drop).map_err(|error| {
        entry.group.kill(pid);
        let what = format!("failed to start a thread: {error}");
        refuse(AgentErrorCode::Internal, what, None)
    })
}

fn pick_name(table: &Table, wanted: Option<&SessionName>, program: &str) -> SessionName {
    if let Some(name) = wanted {
        return name.clone();
    }
    let base = SessionName::of_program(program);
    let numbered = (2..).map(|number| base.numbered(number));
    std::iter::once(base.clone())
        .chain(numbered)
        .find(|name| !table.contains_key(name))
        .unwrap_or(base)
}

fn may_replace(other: &SessionInfo, replace: bool) -> Result<(), Refusal> {
    let name = &other.name;
    let (what, hint) = match (other.state.is_live(), replace) {
        (false, true) => return Ok(()),
        (true, _) => (
            format!("a session `{name}` runs already"),
            "choose another --name, or end that one: `banger vm session stop`",
        ),
        (false, false) => (
            format!("there is a session `{name}`, which has ended"),
            "choose another --name, or --replace deletes that one and its log first",
        ),
    };
    Err(refuse(AgentErrorCode::NameTaken, what, Some(hint)))
}
