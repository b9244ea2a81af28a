//! The options in a file that only root can write: `key = value` lines, the plain part of TOML.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A file of ours is smaller.
const LIMIT: u64 = 64 << 10;

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Not readable.
    #[error("failed to read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else could have written it.
    #[error("{} is not a file that only root can write to", .0.display())]
    Untrusted(PathBuf),
    /// Not such a line.
    #[error("{}: line {number}: {why}: {line}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line.
        number: usize,
        /// What is wrong.
        why: &'static str,
        /// The line.
        line: String,
    },
}

/// Reads the options from the file, when it is root's alone. Keys are the options' names without dashes before them.
pub(crate) fn read(
    path: &Path,
    options: &[&'static str],
) -> Result<HashMap<&'static str, OsString>, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut open = File::options();
    let file = open.read(true).custom_flags(flags).open(path);
    let file = file.map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err(FileError::Untrusted(path.to_owned()));
    }
    let mut text = String::new();
    file.take(LIMIT).read_to_string(&mut text).map_err(failed)?;
    parse(&text, options).map_err(|(number, why, line)| FileError::Line {
        path: path.to_owned(),
        number,
        why,
        line,
    })
}

fn parse(
    text: &str,
    options: &[&'static str],
) -> Result<HashMap<&'static str, OsString>, (usize, &'static str, String)> {
    let mut values = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why| (index + 1, why, line.to_owned());
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("no `key = value`"))?;
        let known = options
            .iter()
            .find(|option| option.strip_prefix("--") == Some(key.trim()));
        let option = known.ok_or_else(|| wrong("unknown key"))?;
        let value =
            plain(value.trim()).ok_or_else(|| wrong("neither a number nor a plain string"))?;
        if values.insert(*option, OsString::from(value)).is_some() {
            return Err(wrong("the key comes twice"));
        }
    }
    Ok(values)
}

/// A number as it is, or what is between quotes, where it needs no escaping.
fn plain(value: &str) -> Option<&str> {
    if let Some(quoted) = value.strip_prefix('"') {
        let inner = quoted.strip_suffix('"')?;
        return (!inner.contains(['"', '\\']) && !inner.contains(char::is_control))
            .then_some(inner);
    }
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    digits.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    const KNOWN: &[&str] = &["--owner", "--bridge"];

    #[test]
    fn lines_are_read_and_everything_else_is_refused_with_its_number() {
        let values = parse("# who\nowner = 1000\n\n bridge=\"banger0\"\n", KNOWN).unwrap();
        assert_eq!(values["--owner"], "1000");
        assert_eq!(values["--bridge"], "banger0");
        for bad in [
            "owner",
            "owner =",
            "owner = ten",
            "owner = -1",
            "shell = \"sh\"",
            "--owner = 1",
            "bridge = \"a\\\"b\"",
            "bridge = \"a",
            "bridge = \"a\" # no",
            "[bridge]",
            "owner = 1\nowner = 2",
        ] {
            assert!(parse(bad, KNOWN).is_err(), "{bad}");
        }
        assert_eq!(parse("owner = 1\nx = 2", KNOWN).unwrap_err().0, 2);
    }

    #[test]
    fn only_roots_own_file_is_believed() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED(root): the file must be root's");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.toml");
        assert!(matches!(read(&path, KNOWN), Err(FileError::Read { .. })));
        fs::write(&path, "owner = 1\n").unwrap();
        assert_eq!(read(&path, KNOWN).unwrap().len(), 1);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link, KNOWN).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(matches!(read(&path, KNOWN), Err(FileError::Untrusted(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
        assert!(matches!(read(&path, KNOWN), Err(FileError::Untrusted(_))));
    }
}
