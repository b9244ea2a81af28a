//! The initramfs: the kernel's segment, made at import, and the agent's, of this build of banger. The
//! kernel unpacks archives one after the other (`Documentation/driver-api/early-userspace`).

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, ModeFileType};
use sha2::{Digest as _, Sha256};

use crate::modules::{add_file, add_folder, finish_archive};
use crate::store::Kernel;

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
#[error("failed to make the initramfs from {}", path.display())]
pub struct InitrdError {
    /// The file that could not be used.
    pub path: PathBuf,
    /// Why.
    #[source]
    source: io::Error,
}

/// The initramfs for this kernel and this agent, made when it is missing. Cached in `cache` by what it
/// is made of: the agent by its inode and time, so that nothing is read on the way to a boot.
///
/// # Errors
/// The agent or the kernel's segment cannot be read, or the cache cannot be written.
pub fn ensure_initrd(cache: &Path, kernel: &Kernel, agent: &Path) -> Result<PathBuf, InitrdError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| InitrdError { path, source }
    };
    let path = path_of(cache, kernel, agent).map_err(at(agent))?;
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(cache).map_err(at(cache))?;
    let segment = kernel.segment();
    let mut bytes = vec![];
    if let Some(own) = kernel.own_initrd() {
        // First, so that its `/init` is not the one that counts.
        bytes = fs::read(&own).map_err(at(&own))?;
    }
    bytes.extend(fs::read(&segment).map_err(at(&segment))?);
    bytes.extend(agent_segment(&fs::read(agent).map_err(at(agent))?));
    let mut file = tempfile::NamedTempFile::new_in(cache).map_err(at(cache))?;
    file.write_all(&bytes).map_err(at(&path))?;
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))
        .map_err(at(&path))?;
    File::sync_all(file.as_file()).map_err(at(&path))?;
    file.persist(&path).map_err(|error| InitrdError {
        path: path.clone(),
        source: error.error,
    })?;
    Ok(path)
}

/// Removes the initramfs of a kernel that is gone, as far as it is known by this agent.
pub fn forget_initrd(cache: &Path, kernel: &Kernel, agent: &Path) {
    if let Ok(path) = path_of(cache, kernel, agent) {
        // It is made again when another kernel is the same.
        let _ = fs::remove_file(path);
    }
}

fn path_of(cache: &Path, kernel: &Kernel, agent: &Path) -> io::Result<PathBuf> {
    let meta = fs::metadata(agent)?;
    let own = match kernel.own_initrd() {
        Some(_) => format!(" {}", kernel.record.name),
        None => String::new(),
    };
    let identity = format!(
        "{} {} {} {} {} {}{own}",
        kernel.record.digest,
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    let name: String = Sha256::digest(identity)
        .iter()
        .take(12)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(cache.join(format!("{name}.cpio")))
}

fn agent_segment(agent: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for folder in ["dev", "proc", "sys", "run", "newroot"] {
        add_folder(&mut archive, folder);
    }
    // The kernel opens it for the first process (console(4): character device 5, 1).
    let console = Builder::new("dev/console")
        .mode(0o600)
        .set_mode_file_type(ModeFileType::Char);
    let console = console.rdev_major(5).rdev_minor(1);
    console
        .write(&mut archive, 0)
        .finish()
        .expect("memory takes all writes");
    add_file(&mut archive, "init", 0o755, agent);
    finish_archive(&mut archive);
    archive
}
