//! Where a copy comes from and goes to, as cp(1) has it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The folder that receives, and under which name.
#[derive(Debug)]
pub struct Destination {
    /// The folder.
    pub base: OwnedFd,
    /// The first name of all that is written; without one, as it was sent.
    pub name: Option<Vec<u8>>,
}

/// Why nothing can be put there.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// A folder is needed.
    #[error("`{}` is no folder", path.display())]
    NotAFolder {
        /// What is none.
        path: PathBuf,
    },
    /// A file is needed.
    #[error("`{}` is a folder; name a file in it", path.display())]
    IsAFolder {
        /// The folder.
        path: PathBuf,
    },
    /// There is no such folder.
    #[error("there is no folder `{}`", path.display())]
    Missing {
        /// What is missing.
        path: PathBuf,
    },
    /// The path cannot be used.
    #[error("`{}` cannot be used", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn open(path: &Path) -> Result<OwnedFd, DestinationError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| DestinationError::Io {
        path: path.to_owned(),
        source: error.into(),
    })
}

impl Destination {
    /// Finds where what is sent belongs: into the target when it is a folder, else under its name.
    ///
    /// # Errors
    /// [`DestinationError`] when nothing can be put there.
    pub fn find(target: &Path, into: bool, file: bool) -> Result<Self, DestinationError> {
        let path = target.to_owned();
        let slash = target.as_os_str().as_bytes().ends_with(b"/");
        match std::fs::metadata(target) {
            Ok(found) if found.is_dir() && file => Err(DestinationError::IsAFolder { path }),
            Ok(found) if found.is_dir() => Ok(Self {
                base: open(target)?,
                name: None,
            }),
            Ok(_) if into || slash => Err(DestinationError::NotAFolder { path }),
            // Through a link, to the file that it leads to: the folder is the file's.
            Ok(_) => match target.canonicalize() {
                Ok(real) => Self::named(&real),
                Err(source) => Err(DestinationError::Io { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if into || slash {
                    return Err(DestinationError::Missing { path });
                }
                Self::named(target)
            }
            Err(source) => Err(DestinationError::Io { path, source }),
        }
    }

    fn named(target: &Path) -> Result<Self, DestinationError> {
        let Some(name) = target.file_name() else {
            let path = target.to_owned();
            return Err(DestinationError::Missing { path });
        };
        let parent = match target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        if !parent.is_dir() {
            let path = parent.to_owned();
            return Err(DestinationError::Missing { path });
        }
        Ok(Self {
            base: open(parent)?,
            name: Some(name.as_bytes().to_vec()),
        })
    }
}

/// A source: the folder that it stands in, its name there, and the name to send it under. A link that
/// is named is followed.
///
/// # Errors
/// When there is none, or it has no name.
pub fn source(path: &Path) -> io::Result<(OwnedFd, PathBuf, Vec<u8>)> {
    let real = path.canonicalize()?;
    let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
        let what = "the root folder has no name; name what is in it";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(parent, flags, Mode::empty())?;
    // `.` and `..` are sent under the names that they have.
    let shown = path.file_name().unwrap_or(name);
    Ok((folder, PathBuf::from(name), shown.as_bytes().to_vec()))
}
