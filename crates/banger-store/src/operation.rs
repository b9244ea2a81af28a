//! Operations, so that a client can come back to one after a restart of the daemon.

use banger_core::OpId;
use rusqlite::{OptionalExtension, params};

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
    /// Writes an operation, and forgets the oldest finished ones.
    ///
    /// # Errors
    /// The database's.
    pub fn save_operation(&self, row: &OperationRow) -> Result<(), StoreError> {
        let connection = self.lock();
        let sql = "INSERT INTO operations (id, final, view) VALUES (?1, ?2, ?3)
                   ON CONFLICT (id) DO UPDATE SET final = ?2, view = ?3";
        connection
            .execute(sql, params![row.id.as_str(), row.is_final, row.view])
            .map_err(failed("writing an operation"))?;
        let sql = "DELETE FROM operations WHERE final = 1 AND number <=
                   (SELECT max(number) FROM operations) - ?1";
        connection
            .execute(sql, [KEPT])
            .map_err(failed("writing an operation"))?;
        Ok(())
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
