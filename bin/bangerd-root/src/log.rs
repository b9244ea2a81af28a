//! One line for each request. For people, and for finding out who asked what.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// A log of this size is put aside as `….1`, in place of the one before.
const LIMIT: u64 = 10 << 20;

/// The log; clones write to the same file, each line in one piece.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    path: PathBuf,
    limit: u64,
}

impl Open {
    fn at(path: &Path, limit: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let file = options.open(path)?;
        Ok(Self {
            size: file.metadata()?.len(),
            file,
            path: path.to_owned(),
            limit,
        })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.size >= self.limit {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            fs::rename(&self.path, aside)?;
            *self = Self::at(&self.path, self.limit)?;
        }
        self.file.write_all(line.as_bytes())?;
        self.size += line.len() as u64;
        Ok(())
    }
}

impl Log {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::limited(path, LIMIT)
    }

    fn limited(path: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Open::at(path, limit)?))))
    }

    pub(crate) fn line(&self, text: fmt::Arguments<'_>) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let text = text.to_string().replace('\n', " ");
        let line = format!(
            "{}.{:03}Z {text}\n",
            civil(now.as_secs()),
            now.subsec_millis()
        );
        // A log that cannot be written must not keep the owner from stopping VMs.
        let _ = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(&line);
    }
}

/// UTC, from seconds since 1970 (days to civil date: H. Hinnant, "chrono-compatible low-level
/// date algorithms").
fn civil(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(civil(0), "1970-01-01T00:00:00");
        assert_eq!(civil(951_782_399), "2000-02-28T23:59:59");
        assert_eq!(civil(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(civil(1_795_513_000), "2026-11-24T09:36:40");
    }

    #[test]
    fn a_line_stays_one_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = Log::open(file.path()).unwrap();
        log.line(format_args!("verb=x\nforged"));
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_full_log_is_put_aside_and_at_most_one_older_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("helper.log");
        let log = Log::limited(&path, 1000).unwrap();
        for number in 0..100 {
            log.clone().line(format_args!("verb=x number={number}"));
        }
        let names = fs::read_dir(dir.path()).unwrap();
        let sizes: Vec<u64> = names
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size < 1100), "{sizes:?}");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("number=99"), "{text}");
        // One that is full from before is put aside as well.
        drop(log);
        Log::limited(&path, 1).unwrap().line(format_args!("new"));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
