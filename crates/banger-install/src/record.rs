//! What was installed: kept in `/etc/banger/install.json`, readable for all.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{InstallSpec, Network, Owner};

/// The version of this file's form.
const FORMAT: u32 = 1;

/// How far an installation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Begun; files may be missing.
    Begun,
    /// All is in place.
    Complete,
}

/// A file as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledFile {
    /// Where.
    pub path: PathBuf,
    /// Permissions.
    pub mode: u32,
    /// Digest of its content; none while the installation is not complete.
    pub sha256: Option<String>,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of its form.
    pub format: u32,
    /// How far it came.
    pub progress: Progress,
    /// banger's version.
    pub version: String,
    /// When (RFC 3339, UTC).
    pub installed_at: String,
    /// Whom it serves.
    pub owner: Owner,
    /// Where programs went.
    pub prefix: PathBuf,
    /// The guests' network.
    pub network: Network,
    /// Whether a Firecracker binary came along.
    pub firecracker: bool,
    /// The files.
    pub files: Vec<InstalledFile>,
}

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not readable.
    #[error("failed to read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a record.
    #[error("{} is damaged", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A later banger's.
    #[error("{} was written by a newer banger (format {found})", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

impl Record {
    /// What is about to be installed.
    #[must_use]
    pub fn begin(spec: &InstallSpec, files: Vec<InstalledFile>) -> Self {
        Self {
            format: FORMAT,
            progress: Progress::Begun,
            version: spec.version.clone(),
            installed_at: jiff::Timestamp::now().to_string(),
            owner: spec.owner.clone(),
            prefix: spec.prefix.clone(),
            network: spec.network.clone(),
            firecracker: spec.firecracker,
            files,
        }
    }

    /// Reads it; none when nothing is installed.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub fn load(path: &Path) -> Result<Option<Self>, RecordError> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(RecordError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
            Ok(text) => text,
        };
        let damaged = |source| RecordError::Parse {
            path: path.to_owned(),
            source,
        };
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let form: Form = serde_json::from_slice(&text).map_err(damaged)?;
        if form.format > FORMAT {
            return Err(RecordError::Format {
                path: path.to_owned(),
                found: form.format,
            });
        }
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// As text for the file.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Where a program was put.
    #[must_use]
    pub fn cli(&self) -> PathBuf {
        self.prefix.join("bin/banger")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    #[test]
    fn it_is_read_as_written_and_damage_and_the_future_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("install.json");
        assert!(Record::load(&path).unwrap().is_none());
        let record = Record::begin(&example(), vec![]);
        std::fs::write(&path, record.to_json()).unwrap();
        assert_eq!(Record::load(&path).unwrap(), Some(record));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(
            Record::load(&path),
            Err(RecordError::Parse { .. })
        ));
        std::fs::write(&path, "{\"format\": 9}").unwrap();
        assert!(matches!(
            Record::load(&path),
            Err(RecordError::Format { found: 9, .. })
        ));
    }
}
