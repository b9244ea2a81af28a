//! Modules: which of them a boot needs, in which order, and the drive that carries all of them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::ImportError;
use crate::command::run;
use crate::decompress::decompress;
use crate::error::Context;

/// What a guest needs before it has its own modules: the bus, its drives, the host, the network. The
/// first are what the others wait for.
const WANTED: &[&str] = &[
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "vmw_vsock_virtio_transport",
    "virtio_net",
    "virtio_rng",
];

/// A line of `modules.dep` (depmod(8)): a module's file and the files that it needs.
type Dependencies<'a> = HashMap<String, (&'a str, Vec<&'a str>)>;

fn parse_dep(text: &str) -> Dependencies<'_> {
    let entry = |line| {
        let (file, needs): (&str, &str) = str::split_once(line, ':')?;
        Some((
            module_name(file),
            (file.trim(), needs.split_ascii_whitespace().collect()),
        ))
    };
    text.lines().filter_map(entry).collect()
}

/// `kernel/drivers/block/virtio-blk.ko.xz` is `virtio_blk`.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

/// The files of the wanted modules, each after what it needs.
fn load_order<'a>(dependencies: &Dependencies<'a>) -> Vec<&'a str> {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for wanted in WANTED {
        if let Some((file, _)) = dependencies.get(*wanted) {
            visit(file, dependencies, &mut seen, &mut order);
        }
    }
    order
}

fn visit<'a>(
    file: &'a str,
    all: &Dependencies<'a>,
    seen: &mut HashSet<&'a str>,
    order: &mut Vec<&'a str>,
) {
    if !seen.insert(file) {
        return;
    }
    if let Some((_, needs)) = all.get(&module_name(file)) {
        for need in needs {
            visit(need, all, seen, order);
        }
    }
    order.push(file);
}

/// Writes the kernel's segment of the initramfs: the modules that a boot needs, unpacked, and
/// `/banger/modules.order`, which names them in the order in which they are loaded.
pub(crate) fn write_segment(
    tree: Option<&Path>,
    release: &str,
    to: &Path,
) -> Result<(), ImportError> {
    let mut archive = Vec::new();
    let mut list = String::new();
    if let Some(tree) = tree {
        let dep = tree.join("modules.dep");
        let text = fs::read_to_string(&dep).context("read", &dep)?;
        let mut folders = HashSet::new();
        let order = load_order(&parse_dep(&text));
        for file in &order {
            let from = tree.join(file);
            let mut module = fs::read(&from).context("read", &from)?;
            if !module.starts_with(b"\x7fELF") {
                let unpacked = decompress(&module);
                module = unpacked.map_err(|why| ImportError::NotAKernel {
                    path: from.clone(),
                    why,
                })?;
            }
            let plain = file.split(".ko").next().unwrap_or(file);
            let name = format!("lib/modules/{release}/{plain}.ko");
            add_folders(&mut archive, &name, &mut folders);
            add_file(&mut archive, &name, 0o644, &module);
            list.push_str(&format!("/{name}\n"));
        }
    }
    add_folders(&mut archive, "banger/modules.order", &mut HashSet::new());
    add_file(&mut archive, "banger/modules.order", 0o644, list.as_bytes());
    finish_archive(&mut archive);
    fs::write(to, archive).context("write", to)
}

fn add_folders(archive: &mut Vec<u8>, file: &str, known: &mut HashSet<String>) {
    for (at, _) in file.match_indices('/') {
        if known.insert(file[..at].to_owned()) {
            add_folder(archive, &file[..at]);
        }
    }
}

/// Adds a folder to an archive in memory.
pub(crate) fn add_folder(archive: &mut Vec<u8>, name: &str) {
    let entry = Builder::new(name)
        .mode(0o755)
        .set_mode_file_type(ModeFileType::Directory);
    entry
        .write(archive, 0)
        .finish()
        .expect("memory takes all writes");
}

/// Adds a regular file to an archive in memory.
pub(crate) fn add_file(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let size = u32::try_from(data.len()).expect("no module or agent has 4 GiB");
    let entry = Builder::new(name)
        .mode(mode)
        .set_mode_file_type(ModeFileType::Regular);
    let mut writer = entry.write(archive, size);
    writer.write_all(data).expect("memory takes all writes");
    writer.finish().expect("memory takes all writes");
}

/// Ends an archive; padded, so that another may follow it.
pub(crate) fn finish_archive(archive: &mut Vec<u8>) {
    trailer(&mut *archive).expect("memory takes all writes");
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// Makes the index that Debian's packages do not carry.
pub(crate) fn ensure_index(root: &Path, release: &str) -> Result<(), ImportError> {
    if root
        .join("lib/modules")
        .join(release)
        .join("modules.dep")
        .exists()
    {
        return Ok(());
    }
    let mut command = Command::new("depmod");
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .arg("-b")
        .arg(root)
        .arg(release);
    run(&mut command, "depmod", "kmod").map(drop)
}

/// Makes the modules drive: a small ext4 without a journal, everything root's.
pub(crate) fn write_drive(tree: &Path, to: &Path) -> Result<(), ImportError> {
    let (bytes, files) = measure(tree)?;
    // Blocks are rounded up for each file; the rest is the file system's own.
    let size_kib = (bytes / 1024 + 4 * files) * 11 / 10 + 4096;
    let mut command = Command::new("mke2fs");
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args([
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-b",
            "4096",
            "-L",
            "modules",
        ])
        .args(["-N", &(files + files / 8 + 64).to_string()])
        .args(["-E", "root_owner=0:0,nodiscard,lazy_itable_init=1"])
        .arg("-d")
        .arg(tree)
        .arg(to)
        .arg(format!("{size_kib}k"));
    run(&mut command, "mke2fs", "e2fsprogs").map(drop)
}

fn measure(tree: &Path) -> Result<(u64, u64), ImportError> {
    let (mut bytes, mut files) = (0, 0);
    for entry in fs::read_dir(tree).context("list", tree)? {
        let entry = entry.context("list", tree)?;
        let metadata = entry.metadata().context("look at", entry.path())?;
        files += 1;
        if metadata.is_dir() {
            let (more_bytes, more_files) = measure(&entry.path())?;
            bytes += more_bytes;
            files += more_files;
        } else {
            bytes += metadata.len();
        }
    }
    Ok((bytes, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let text = "kernel/a/virtio.ko:\nkernel/a/virtio_ring.ko: kernel/a/virtio.ko\n\
                    kernel/a/virtio_mmio.ko: kernel/a/virtio_ring.ko kernel/a/virtio.ko\n\
                    kernel/b/virtio-blk.ko.xz: kernel/a/virtio_ring.ko kernel/a/virtio.ko\n";
        let order = load_order(&parse_dep(text));
        assert_eq!(
            order,
            [
                "kernel/a/virtio.ko",
                "kernel/a/virtio_ring.ko",
                "kernel/a/virtio_mmio.ko",
                "kernel/b/virtio-blk.ko.xz"
            ]
        );
    }

    #[test]
    fn a_cycle_ends() {
        let text = "virtio_mmio.ko: b.ko\nb.ko: virtio_mmio.ko\n";
        assert_eq!(load_order(&parse_dep(text)), ["b.ko", "virtio_mmio.ko"]);
    }

    #[test]
    fn a_kernel_with_all_built_in_has_an_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("segment");
        write_segment(None, "6.1", &to).unwrap();
        let bytes = fs::read(&to).unwrap();
        assert_eq!(bytes.len() % 512, 0);
        assert!(
            bytes
                .windows(20)
                .any(|window| window == b"banger/modules.order")
        );
    }
}
