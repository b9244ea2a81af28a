//! The drive of one run: programs under test, kernel and images, keys. Read-only in the host, label `payload`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::artefacts::Artefacts;
use crate::folder::Folder;
use crate::ssh;

/// Room beyond the content, in MiB: inodes, a little growth of metadata.
const SLACK_MIB: u64 = 96;

/// The drive's image.
#[derive(Debug)]
pub(crate) struct Payload {
    /// A raw ext4.
    pub(crate) image: PathBuf,
}

impl Payload {
    /// Makes it in the run's folder.
    pub(crate) fn make(repo: &Path, folder: &Folder, artefacts: &Artefacts) -> Result<Self> {
        let stage = folder.path().join("stage");
        fs::create_dir(&stage)?;
        artefacts.stage(&stage.join("checkout"))?;
        for item in ["scripts", "images", "Makefile", "README.md"] {
            copy(&repo.join(item), &stage.join("checkout"))?;
        }
        for part in ["images", "kernels"] {
            let from = artefacts.state.join(part);
            ensure!(
                from.is_dir(),
                "{} is missing: scripts/host-tests makes it",
                from.display()
            );
            copy(&from, &stage.join("state"))?;
        }
        ssh::make_keys(folder, &stage.join("keys"))?;
        let image = folder.path().join("payload.ext4");
        let mib = used_mib(&stage)? * 11 / 10 + SLACK_MIB;
        run(Command::new("/usr/sbin/mke2fs")
            .args([
                "-q",
                "-t",
                "ext4",
                "-F",
                "-m",
                "0",
                "-b",
                "4096",
                "-L",
                "payload",
                "-O",
                "^has_journal",
            ])
            .args(["-E", "root_owner=0:0,nodiscard", "-d"])
            .arg(&stage)
            .arg(&image)
            .arg(format!("{mib}M")))?;
        fs::remove_dir_all(&stage)?;
        Ok(Self { image })
    }
}

/// Copies a file or a tree into a folder, holes as holes, and as links where that is the same.
fn copy(from: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    // The drive is read-only, so links to the originals do; across file systems they are copied.
    let linked = Command::new("cp")
        .args(["-rlL"])
        .arg(from)
        .arg(into)
        .output()?;
    if linked.status.success() {
        return Ok(());
    }
    run(Command::new("cp")
        .args(["-rL", "--sparse=always"])
        .arg(from)
        .arg(into))
}

/// What a tree takes on the disk.
fn used_mib(tree: &Path) -> Result<u64> {
    let output = Command::new("du")
        .arg("-sm")
        .arg(tree)
        .output()
        .context("starting du")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    number.with_context(|| format!("du said {text:?}"))
}

/// Runs a program that must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("starting {name}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
