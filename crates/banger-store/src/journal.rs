//! The journal: which resource of a VM was about to be made, so that a crash is followed by a look.

use banger_core::VmId;
use rusqlite::params;

use crate::{Store, StoreError, failed};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// What: a step's key.
    pub resource: String,
    /// Whether it was seen to be done.
    pub confirmed: bool,
}

impl Store {
    /// Notes what is about to be done, and what has been: one transaction.
    ///
    /// # Errors
    /// The database's.
    pub fn journal(
        &self,
        vm: &VmId,
        intended: &[&str],
        confirmed: &[&str],
    ) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = connection
            .transaction()
            .map_err(failed("writing the journal"))?;
        for (resources, is_done) in [(intended, false), (confirmed, true)] {
            for resource in resources {
                let sql = "INSERT INTO journal (vm, resource, confirmed) VALUES (?1, ?2, ?3)
                           ON CONFLICT (vm, resource) DO UPDATE SET confirmed = ?3";
                transaction
                    .execute(sql, params![vm.as_str(), resource, is_done])
                    .map_err(failed("writing the journal"))?;
            }
        }
        transaction.commit().map_err(failed("writing the journal"))
    }

    /// A VM's journal.
    ///
    /// # Errors
    /// The database's.
    pub fn journal_of(&self, vm: &VmId) -> Result<Vec<JournalEntry>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT resource, confirmed FROM journal WHERE vm = ?1 ORDER BY resource")
            .map_err(failed("reading the journal"))?;
        let rows = statement
            .query_map([vm.as_str()], |row| {
                Ok(JournalEntry {
                    resource: row.get(0)?,
                    confirmed: row.get(1)?,
                })
            })
            .map_err(failed("reading the journal"))?;
        rows.collect::<Result<_, _>>()
            .map_err(failed("reading the journal"))
    }
}
