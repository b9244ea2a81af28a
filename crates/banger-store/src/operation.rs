//! Operations, so that a client can come back to one after a restart of the daemon.

use banger_core::OpId;
use rusqlite::{Connection, OptionalExtension, params};

use crate::{Store, StoreError, failed};

/// How many finished operations are kept.
const KEPT: i64 = 200;

/// An operation as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRow {
    /// Which.
    pub id: OpId,
    /// Whether nothing more will happen.
    pub is_final: bool,
    /// JSON of the engine's view.
    pub view: String,
}

impl Store {
    /// Writes an operation, and forgets the oldest finished ones. One that has ended is not changed any
    /// more. It is a report, not an intent: it survives the daemon, but need not survive a power cut.
    ///
    /// # Errors
    /// The database's.
    pub fn save_operation(&self, row: &OperationRow) -> Result<(), StoreError> {
        let connection = self.lock();
        let synchronous = |level: &str| {
            connection
                .pragma_update(None, "synchronous", level)
                .map_err(failed("writing an operation"))
        };
        synchronous("NORMAL")?;
        let written = write(&connection, row).map_err(failed("writing an operation"));
        synchronous("FULL")?;
        written
    }

    /// The operations that have not ended, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub fn unfinished_operations(&self) -> Result<Vec<OperationRow>, StoreError> {
        let connection = self.lock();
        let sql = "SELECT id, final, view FROM operations WHERE final = 0 ORDER BY number";
        let mut statement = connection
            .prepare(sql)
            .map_err(failed("reading operations"))?;
        let read = |row: &rusqlite::Row<'_>| {
            let id: String = row.get(0)?;
            Ok((id, row.get(1)?, row.get(2)?))
        };
        let rows = statement
            .query_map([], read)
            .map_err(failed("reading operations"))?;
        let mut operations = Vec::new();
        for row in rows {
            let (id, is_final, view) = row.map_err(failed("reading operations"))?;
            // One that nobody can ask for is nobody's.
            if let Ok(id) = id.parse() {
                operations.push(OperationRow { id, is_final, view });
            }
        }
        Ok(operations)
    }

    /// An operation of that id.
    ///
    /// # Errors
    /// The database's.
    pub fn operation(&self, id: &OpId) -> Result<Option<OperationRow>, StoreError> {
        let connection = self.lock();
        connection
            .query_row(
                "SELECT final, view FROM operations WHERE id = ?1",
                [id.as_str()],
                |row| {
                    Ok(OperationRow {
                        id: id.clone(),
                        is_final: row.get(0)?,
                        view: row.get(1)?,
                    })
                },
            )
            .optional()
            .map_err(failed("reading an operation"))
    }
}

fn write(connection: &Connection, row: &OperationRow) -> rusqlite::Result<()> {
    let sql = "INSERT INTO operations (id, final, view) VALUES (?1, ?2, ?3)
               ON CONFLICT (id) DO UPDATE SET final = ?2, view = ?3 WHERE final = 0";
    connection.execute(sql, params![row.id.as_str(), row.is_final, row.view])?;
    let sql = "DELETE FROM operations WHERE final = 1 AND number <=
               (SELECT max(number) FROM operations) - ?1";
    connection.execute(sql, [KEPT])?;
    Ok(())
}
