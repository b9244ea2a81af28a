//! What was seen of a catalog before, so that nobody can put an older index in its place.

use std::fs;
use std::path::{Path, PathBuf};

use banger_core::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::{CatalogError, Context};
use crate::{Location, TrustedKey};

fn file(folder: &Path, location: &Location, key: &TrustedKey) -> PathBuf {
    let name = Sha256::digest(format!("{location}\n{}", key.as_str()));
    let name = Digest::of_sha256(name.into());
    folder.join(format!("seen-{}", name.short()))
}

/// Refuses an index that is older than one that was seen, else remembers it.
pub(crate) fn check(
    folder: &Path,
    location: &Location,
    key: &TrustedKey,
    serial: u64,
) -> Result<(), CatalogError> {
    let path = file(folder, location, key);
    let seen = fs::read_to_string(&path).unwrap_or_default();
    let seen: u64 = seen.trim().parse().unwrap_or(0);
    if serial < seen {
        return Err(CatalogError::Older { serial, seen });
    }
    if serial > seen {
        fs::create_dir_all(folder).context("make", folder)?;
        let next = tempfile::NamedTempFile::new_in(folder).context("write to", folder)?;
        fs::write(next.path(), format!("{serial}\n")).context("write", next.path())?;
        let kept = next.persist(&path).map_err(|error| error.error);
        kept.context("write", &path)?;
    }
    Ok(())
}
