//! Schema versions: `PRAGMA user_version` counts the files under `migrations/` that were applied.

use rusqlite::Connection;

/// Applied in order, each in a transaction of its own. Released files never change.
const MIGRATIONS: &[&str] = &[include_str!("../migrations/0001-vms.sql")];

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Written by a later banger.
    #[error(
        "it was written by a newer banger (schema {found}, this one knows {known}); upgrade banger"
    )]
    Newer {
        /// Its schema.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// SQLite's own.
    #[error("SQLite failed")]
    Sqlite(#[source] rusqlite::Error),
}

pub(crate) fn migrate(connection: &Connection) -> Result<(), MigrateError> {
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(MigrateError::Sqlite)?;
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    if found > MIGRATIONS.len() {
        return Err(MigrateError::Newer {
            found,
            known: MIGRATIONS.len(),
        });
    }
    for (at, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        let version = at + 1;
        let batch =
            format!("BEGIN IMMEDIATE; {migration}; PRAGMA user_version = {version}; COMMIT;");
        connection
            .execute_batch(&batch)
            .map_err(MigrateError::Sqlite)?;
    }
    Ok(())
}
