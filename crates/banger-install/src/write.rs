//! Writing and removing files as root, below `/` (or, in tests, below another folder).

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::{Content, InstalledFile, Plan, PlannedFile};

/// Why something was not written or removed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file system's error.
    #[error("failed to {what} {}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody besides root could exchange what root will run.
    #[error("{} is not root's alone: whoever can write to it could run programs as root", .0.display())]
    Untrusted(PathBuf),
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> WriteError + 'a {
    move |source| WriteError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Where an installed path is below `root`.
pub(crate) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Checks that every existing folder on the way to each folder of the plan is root's and nobody else's to
/// write to.
///
/// # Errors
/// The first that is not.
pub fn check_folders(root: &Path, plan: &Plan) -> Result<(), WriteError> {
    for folder in &plan.folders {
        let full = below(root, folder);
        let mut chain: Vec<&Path> = full
            .ancestors()
            .take_while(|path| path.starts_with(root))
            .collect();
        chain.reverse();
        for path in chain {
            let metadata = match fs::metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                other => other.map_err(io_error("look at", path))?,
            };
            if !metadata.is_dir() || metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
                return Err(WriteError::Untrusted(path.to_owned()));
            }
        }
    }
    Ok(())
}

/// Writes every file of the plan: each is complete or not there, and a program that runs keeps running from
/// the file that it had.
///
/// # Errors
/// The first that failed. What was written before it stays.
pub fn write(root: &Path, plan: &Plan) -> Result<Vec<InstalledFile>, WriteError> {
    for folder in &plan.folders {
        let folder = below(root, folder);
        make_folder(&folder)?;
    }
    plan.files
        .iter()
        .map(|file| write_one(root, file))
        .collect()
}

fn make_folder(path: &Path) -> Result<(), WriteError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    fs::create_dir(path).map_err(io_error("make", path))?;
    // Whatever root's umask is.
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(io_error("open up", path))
}

fn write_one(root: &Path, file: &PlannedFile) -> Result<InstalledFile, WriteError> {
    let content = match &file.content {
        Content::Text(text) => text.clone().into_bytes(),
        Content::CopyOf(from) => fs::read(from).map_err(io_error("read", from))?,
    };
    replace(&below(root, &file.path), &content, file.mode)?;
    Ok(InstalledFile {
        path: file.path.clone(),
        mode: file.mode,
        sha256: Some(digest(&content)),
    })
}

/// Puts a file in place of another, in one step.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), WriteError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let next = path.with_file_name(format!(".{name}.banger-new"));
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", &next)(error));
        }
        _ => {}
    }
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let failed = io_error("write", &next);
    let mut file = options.open(&next).map_err(&failed)?;
    file.write_all(content).map_err(&failed)?;
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(&failed)?;
    file.sync_all().map_err(&failed)?;
    drop(file);
    fs::rename(&next, path).map_err(io_error("write", path))
}

/// Writes the record of the installation.
///
/// # Errors
/// It cannot be written.
pub fn write_record(root: &Path, record: &crate::Record) -> Result<(), WriteError> {
    let path = below(root, Path::new(crate::RECORD));
    make_folder(path.parent().unwrap_or(root))?;
    replace(&path, record.to_json().as_bytes(), 0o644)
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// It is there and stays.
pub fn remove(root: &Path, path: &Path) -> Result<(), WriteError> {
    let path = below(root, path);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", &path)(error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Plan {
        Plan {
            folders: vec!["/usr/lib/x".into()],
            files: vec![PlannedFile {
                path: "/usr/lib/x/file".into(),
                mode: 0o755,
                content: Content::Text(text.to_owned()),
            }],
        }
    }

    #[test]
    fn a_file_is_exchanged_not_rewritten_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &plan("one")).unwrap();
        let path = dir.path().join("usr/lib/x/file");
        // What a crash could have left.
        fs::write(path.with_file_name(".file.banger-new"), "half").unwrap();
        let mut running = File::open(&path).unwrap();
        let written = write(dir.path(), &plan("two")).unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut running, &mut text).unwrap();
        assert_eq!(text, "one", "who had it open keeps it");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(written[0].sha256.as_deref(), Some(digest(b"two").as_str()));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        remove(dir.path(), Path::new("/usr/lib/x/file")).unwrap();
        remove(dir.path(), Path::new("/usr/lib/x/file")).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_missing_source_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan("");
        plan.files[0].content = Content::CopyOf("/nowhere/bangerd".into());
        let error = write(dir.path(), &plan).unwrap_err();
        assert_eq!(error.to_string(), "failed to read /nowhere/bangerd");
        assert!(!dir.path().join("usr/lib/x/file").exists());
    }

    #[test]
    fn folders_that_others_can_write_to_are_refused() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED(root): folders must be root's");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        check_folders(dir.path(), &plan("")).unwrap();
        fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        check_folders(dir.path(), &plan("")).unwrap();
        let open = dir.path().join("usr");
        fs::set_permissions(&open, Permissions::from_mode(0o775)).unwrap();
        let refused = check_folders(dir.path(), &plan(""));
        assert!(matches!(refused, Err(WriteError::Untrusted(path)) if path == open));
        fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&open, Some(1000), None).unwrap();
        assert!(check_folders(dir.path(), &plan("")).is_err());
    }
}
