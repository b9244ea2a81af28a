//! Importing: into a folder beside the others, which then takes its place at once.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_core::{Digest, ImageName, KernelName};
use sha2::{Digest as _, Sha256};

use crate::error::Context;
use crate::image::extract_vmlinux;
use crate::source::{Found, find};
use crate::store::{Kernel, KernelRecord, KernelStore, OWN_INITRD, RECORD};
use crate::{ImportError, elf, modules};

/// The largest file that is looked at as a kernel.
pub(crate) const MAX_KERNEL_FILE: u64 = 1 << 30;

/// What to import.
#[derive(Debug, Clone)]
pub enum Source {
    /// A Debian package by name, fetched by the host's package manager; None: the default.
    Package(Option<String>),
    /// The kernel this host runs.
    Host,
    /// A `vmlinux`, a `vmlinuz` or a `.deb`.
    File {
        /// The file.
        path: PathBuf,
        /// Its modules, `…/lib/modules/<release>`.
        modules: Option<PathBuf>,
    },
}

/// An import.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// Its name; without one, its release.
    pub name: Option<KernelName>,
    /// Where it comes from.
    pub source: Source,
    /// Whether a kernel of that name is replaced.
    pub replace: bool,
    /// An initramfs whose files come before banger's own.
    pub initrd: Option<PathBuf>,
    /// The image that it belongs to: its name gets the beginning of its digest.
    pub of_image: Option<ImageName>,
}

impl KernelStore {
    /// Imports a kernel. `say` gets a line for each step; `cancelled` is asked between them.
    ///
    /// # Errors
    /// Nothing of a failed import is left in the store.
    pub fn import(
        &self,
        request: &ImportRequest,
        say: &dyn Fn(&str),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Kernel, ImportError> {
        let check = || {
            if cancelled() {
                Err(ImportError::Cancelled)
            } else {
                Ok(())
            }
        };
        let work = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempdir_in(self.root());
        let work = work.context("make a folder in", self.root())?;
        let found = find(&request.source, work.path(), say)?;
        check()?;
        say("extracting the kernel image");
        let next = work.path().join("kernel");
        fs::create_dir(&next).context("make", &next)?;
        let vmlinux = extract(&found.kernel)?;
        let facts = elf::inspect(&vmlinux).map_err(|why| not_a_kernel(&found.kernel, why))?;
        let release = elf::release(&vmlinux)
            .ok_or_else(|| not_a_kernel(&found.kernel, "it does not say its version".into()))?;
        write_file(&next.join("vmlinux"), &vmlinux)?;
        check()?;
        say("packing the modules");
        let tree = modules_tree(&found, &release, work.path())?;
        let segment = next.join("initrd-kernel.cpio");
        modules::write_segment(tree.as_deref(), &release, &segment)?;
        if let Some(tree) = &tree {
            modules::write_drive(tree, &next.join("modules.ext4"))?;
            fs::set_permissions(next.join("modules.ext4"), Permissions::from_mode(0o644))
                .context("open up", next.join("modules.ext4"))?;
        }
        check()?;
        if let Some(initrd) = &request.initrd {
            say("adding its initramfs");
            own_initrd(initrd, &next.join(OWN_INITRD))?;
        }
        check()?;
        let digest = whole_digest(&next)?;
        let name = match (&request.of_image, &request.name) {
            (Some(image), _) => {
                let name = format!("{image}-{}", digest.short());
                name.parse().map_err(|_| ImportError::NoName(name))?
            }
            (None, Some(name)) => name.clone(),
            (None, None) => release
                .parse()
                .map_err(|_| ImportError::NoName(release.clone()))?,
        };
        let record = KernelRecord {
            name,
            release,
            digest: Digest::of_sha256(Sha256::digest(&vmlinux).into()),
            source: found.said,
            pvh: facts.pvh,
            modules: tree.is_some(),
            initrd: request.initrd.is_some(),
            of_image: request.of_image.clone(),
            created_at: jiff::Timestamp::now().to_string(),
        };
        let json = serde_json::to_vec_pretty(&record).expect("plain data serialises");
        write_file(&next.join(RECORD), &json)?;
        self.adopt(&next, record, request.replace)
    }
}

/// What tells an image's kernel from another one: all its files.
fn whole_digest(folder: &Path) -> Result<Digest, ImportError> {
    let mut hash = Sha256::new();
    for name in ["vmlinux", "initrd-kernel.cpio", OWN_INITRD, "modules.ext4"] {
        let path = folder.join(name);
        if let Ok(mut file) = File::open(&path) {
            std::io::copy(&mut file, &mut hash).context("read", &path)?;
        }
    }
    Ok(Digest::of_sha256(hash.finalize().into()))
}

/// Largest initramfs that is taken.
const MAX_INITRD: u64 = 512 << 20;

fn own_initrd(from: &Path, to: &Path) -> Result<(), ImportError> {
    let metadata = fs::metadata(from).context("read", from)?;
    let wrong = |why: &str| ImportError::NotAnInitrd {
        path: from.to_owned(),
        why: why.to_owned(),
    };
    if !metadata.is_file() || metadata.len() > MAX_INITRD {
        return Err(wrong("it is no regular file of at most 512 MiB"));
    }
    let mut bytes = fs::read(from).context("read", from)?;
    if !is_initramfs(&bytes) {
        return Err(wrong("it is no cpio archive, plain or compressed"));
    }
    // The kernel looks for the next archive at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    write_file(to, &bytes)
}

/// By its first bytes (`init/initramfs.c`, `lib/decompress.c`).
fn is_initramfs(bytes: &[u8]) -> bool {
    let kinds: [&[u8]; 9] = [
        b"070701",
        b"070702",
        &[0x1f, 0x8b],
        b"BZh",
        &[0x5d, 0x00],
        &[0xfd, b'7', b'z', b'X', b'Z', 0],
        &[0x89, b'L', b'Z', b'O'],
        &[0x02, 0x21, 0x4c, 0x18],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    kinds.iter().any(|kind| bytes.starts_with(kind))
}

pub(crate) fn not_a_kernel(path: &Path, why: String) -> ImportError {
    ImportError::NotAKernel {
        path: path.to_owned(),
        why,
    }
}

fn extract(path: &Path) -> Result<Vec<u8>, ImportError> {
    let metadata = fs::metadata(path).context("read", path)?;
    if !metadata.is_file() || metadata.len() > MAX_KERNEL_FILE {
        return Err(not_a_kernel(
            path,
            "it is no regular file of at most 1 GiB".into(),
        ));
    }
    let bytes = fs::read(path).context("read", path)?;
    extract_vmlinux(&bytes).map_err(|error| not_a_kernel(path, error.to_string()))
}

/// The kernel's modules, with their index. The host's own are copied when they have none.
fn modules_tree(found: &Found, release: &str, work: &Path) -> Result<Option<PathBuf>, ImportError> {
    if let Some(root) = &found.modules_root {
        let tree = root.join("lib/modules").join(release);
        if !tree.is_dir() {
            return Ok(None);
        }
        modules::ensure_index(root, release)?;
        return Ok(Some(tree));
    }
    let Some(given) = &found.modules else {
        return Ok(None);
    };
    if given.join("modules.dep").is_file() {
        return Ok(Some(given.clone()));
    }
    let root = work.join("modules-root");
    let parent = root.join("lib/modules");
    fs::create_dir_all(&parent).context("make", &parent)?;
    let link = parent.join(release);
    let mut copy = std::process::Command::new("cp");
    copy.arg("-r").arg("--").arg(given).arg(&link);
    crate::command::run(&mut copy, "cp", "coreutils")?;
    modules::ensure_index(&root, release)?;
    Ok(Some(link))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ImportError> {
    let mut file = File::create(path).context("write", path)?;
    file.write_all(bytes).context("write", path)?;
    file.set_permissions(Permissions::from_mode(0o644))
        .context("open up", path)?;
    file.sync_all().context("write", path)
}
