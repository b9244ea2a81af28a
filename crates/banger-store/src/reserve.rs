//! Room for the database when there is none: a file that is given up so that a VM can be stopped and
//! deleted on a full file system. No VM is stored without it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Store, StoreError};

/// Some dozens of changes' worth of pages in SQLite's log.
const SIZE: usize = 256 << 10;

pub(crate) fn path_of(database: &Path) -> PathBuf {
    database.with_extension("reserve")
}

/// Makes the file when it is not there.
pub(crate) fn ensure(path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    make(path).map_err(|source| {
        // What there is of it is room for others.
        let _ = fs::remove_file(path);
        StoreError::Reserve {
            path: path.display().to_string(),
            source,
        }
    })
}

fn make(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    // Written, not just extended: a hole is no room.
    file.write_all(&vec![0; SIZE])?;
    file.sync_all()
}

impl Store {
    /// Gives the reserve up, so that the next changes have room. It is made again before a VM is stored.
    pub fn use_reserve(&self) {
        // One that cannot be removed gives no room: the change that follows says so.
        let _ = fs::remove_file(&self.reserve);
    }
}
