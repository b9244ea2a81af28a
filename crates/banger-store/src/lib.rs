//! What is durable: VMs with their intent, phase and specification, the journal of what was being
//! made, and operations. One SQLite file, one writer.

mod fault;
mod journal;
mod migrate;
mod operation;
mod reserve;
mod vm;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

pub use fault::Fault;
pub use journal::JournalEntry;
pub use migrate::MigrateError;
pub use operation::OperationRow;
pub use vm::{InsertVmError, NewVm, StoredVms, UnreadableVm, VmRow};

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// SQLite could not open or read the file.
    #[error("failed to open the database {path}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// Its schema cannot be used.
    #[error("failed to bring the database {path} up to date")]
    Migrate {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: MigrateError,
    },
}

/// A failed query or change: nothing of it is in the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite's own.
    #[error("the database failed while {what}")]
    Sqlite {
        /// What was done.
        what: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// There is no room to work with.
    #[error("failed to set room aside in {path}")]
    Reserve {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A row holds what this version cannot read.
    #[error("the database row of {what} cannot be read: {why}")]
    Row {
        /// Which.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The database. Calls block: give them to a thread that may.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    reserve: PathBuf,
}

impl Store {
    /// Opens the database, makes it when it is missing, and brings its schema up to date.
    ///
    /// # Errors
    /// A damaged file, or one that a newer banger has written.
    pub fn open(path: &Path) -> Result<Self, OpenStoreError> {
        let failed = |source| OpenStoreError::Open {
            path: path.display().to_string(),
            source,
        };
        let connection = Connection::open(path).map_err(failed)?;
        // Intent must survive a power cut: FULL, also in WAL mode.
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;
                 PRAGMA foreign_keys = ON;",
            )
            .map_err(failed)?;
        migrate::migrate(&connection).map_err(|source| OpenStoreError::Migrate {
            path: path.display().to_string(),
            source,
        })?;
        restrict(path);
        let reserve = reserve::path_of(path);
        // A daemon that finds no room for it must still let VMs be deleted.
        let _ = reserve::ensure(&reserve);
        Ok(Self {
            connection: Mutex::new(connection),
            reserve,
        })
    }

    /// What SQLite finds wrong with the file, for people. Reads all of it.
    ///
    /// # Errors
    /// It could not be looked at.
    pub fn damage(&self) -> Result<Vec<String>, StoreError> {
        let connection = self.lock();
        let look = |query: &str| -> Result<Vec<String>, rusqlite::Error> {
            let mut query = connection.prepare(query)?;
            let rows = query.query_map([], |row| row.get(0))?;
            rows.collect()
        };
        let mut found = look("PRAGMA integrity_check").map_err(failed("checking it"))?;
        found.retain(|line| line != "ok");
        let dangling = look("PRAGMA foreign_key_check").map_err(failed("checking it"))?;
        found.extend(
            dangling
                .into_iter()
                .map(|table| format!("{table} refers to nothing")),
        );
        drop(connection);
        let unreadable = self.stored_vms()?.unreadable.into_iter();
        found.extend(unreadable.map(|vm| StoreError::from(vm).to_string()));
        Ok(found)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves no half-done transaction: it was rolled back.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only the owner reads the database. Best effort: the folder is closed to others as well.
fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
}

fn failed(what: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sqlite { what, source }
}
