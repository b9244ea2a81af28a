//! The work disk of a VM, and how any disk is made.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banger_core::ByteSize;

use crate::grow::grow_work_disk;
use crate::sparse;

/// Why a disk was not made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file could not be used.
    #[error("failed to make the disk {}", path.display())]
    Io {
        /// The disk.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("`{argv}` failed: {stderr}")]
    Command {
        /// The command line.
        argv: String,
        /// What it said.
        stderr: String,
    },
}

impl DiskError {
    /// Whether the file system was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Command { stderr, .. } => stderr.contains("No space left on device"),
        }
    }
}

/// Makes the work disk at `to`: a copy of the seed, grown to `size`, file system included; empty when
/// there is no seed. One that exists is left alone, but for a growth that was cut short, or not begun: it is
/// done.
///
/// # Errors
/// See [`DiskError`].
pub fn make_work_disk(seed: Option<&Path>, to: &Path, size: ByteSize) -> Result<(), DiskError> {
    if to.exists() {
        return grow_work_disk(to, size);
    }
    let next = partial(to);
    // A program that a dead daemon left may still write to the old one: never the same file again.
    let _ = fs::remove_file(&next);
    let made = match seed {
        Some(seed) => grow_copy(seed, &next, size),
        None => format_empty(&next, size),
    };
    let moved = made.and_then(|()| {
        fs::rename(&next, to).map_err(|source| DiskError::Io {
            path: to.to_owned(),
            source,
        })
    });
    if moved.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&next);
    }
    moved
}

fn grow_copy(seed: &Path, to: &Path, size: ByteSize) -> Result<(), DiskError> {
    let copied = (|| {
        let from = File::open(seed)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(to)?;
        sparse::copy(&from, &file)?;
        if size.0 > from.metadata()?.len() {
            file.set_len(size.0)?;
        }
        Ok(())
    })();
    copied.map_err(|source| DiskError::Io {
        path: to.to_owned(),
        source,
    })?;
    run(Command::new("resize2fs").arg("-f").arg(to))
}

fn format_empty(to: &Path, size: ByteSize) -> Result<(), DiskError> {
    let made = File::create(to).and_then(|file| file.set_len(size.0));
    made.map_err(|source| DiskError::Io {
        path: to.to_owned(),
        source,
    })?;
    run(Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-F", "-m", "0", "-L", "work"])
        .args([
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
        ])
        .arg(to))
}

fn run(command: &mut Command) -> Result<(), DiskError> {
    succeeded(command.stdin(Stdio::null()), &[0])
}

/// Runs a command that must end with one of `codes`.
pub(crate) fn succeeded(command: &mut Command, codes: &[i32]) -> Result<(), DiskError> {
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C");
    let argv = std::iter::once(command.get_program()).chain(command.get_args());
    let argv = argv
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    match command.output() {
        Ok(output)
            if output
                .status
                .code()
                .is_some_and(|code| codes.contains(&code)) =>
        {
            Ok(())
        }
        Ok(output) => {
            // e2fsck says what is wrong on its standard output.
            let said = [output.stderr, output.stdout]
                .map(|b| String::from_utf8_lossy(&b).trim().to_owned());
            let stderr = said
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect::<Vec<_>>()
                .join(": ");
            Err(DiskError::Command { argv, stderr })
        }
        Err(error) => Err(DiskError::Command {
            argv,
            stderr: error.to_string(),
        }),
    }
}

fn partial(path: &Path) -> PathBuf {
    path.with_extension("partial")
}

/// Makes a file under another name first; one that exists is left alone.
pub(crate) fn build(
    to: &Path,
    make: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), DiskError> {
    if to.exists() {
        return Ok(());
    }
    let next = partial(to);
    let made = make(&next).and_then(|()| fs::rename(&next, to));
    made.map_err(|source| {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&next);
        DiskError::Io {
            path: to.to_owned(),
            source,
        }
    })
}
