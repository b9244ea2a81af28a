//! What is mounted where, before the image's init.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use banger_guest_proto::InitKind;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

use super::Report;
use super::drives::Drives;
use super::files;
use crate::root::{Root, proc_path};

fn make_folder(path: &str) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `/proc`, `/sys` and `/dev`, with the flags that systemd uses.
pub(super) fn kernel_file_systems() -> io::Result<()> {
    let tight = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, path, flags, data) in [
        ("proc", "/proc", tight, None),
        ("sysfs", "/sys", tight, None),
        ("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=755")),
    ] {
        make_folder(path)?;
        match mount(kind, path, kind, flags, data) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// How disks of ours are mounted (ext4(5)). They are sparse files: an inode table that was never written is zero,
/// and to have the kernel zero it again in the background costs every new guest processor time and every new disk
/// its room on the host.
const DISK: Option<&CStr> = Some(c"noinit_itable");

/// The root disk, writable.
pub(super) fn root(node: &Path, target: &str) -> io::Result<()> {
    make_folder(target)?;
    Ok(mount(node, target, "ext4", MountFlags::RELATIME, DISK)?)
}

fn mount_in(
    root: &Root,
    path: &str,
    source: &Path,
    kind: &str,
    flags: MountFlags,
    data: Option<&CStr>,
) -> io::Result<()> {
    let place = root.ensure_folder(path, 0o755)?;
    Ok(mount(source, proc_path(place.as_fd()), kind, flags, data)?)
}

/// An empty `/run`. Not `noexec`: systemd executes the agent there at the end.
pub(super) fn run(root: &Root) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let data = c"mode=755,size=20%,nr_inodes=800k";
    mount_in(root, "/run", Path::new("tmpfs"), "tmpfs", flags, Some(data))
}

/// The work disk at `/root`.
pub(super) fn work(root: &Root, drives: &Drives) -> io::Result<()> {
    let Some(node) = &drives.work else {
        return Ok(());
    };
    mount_in(root, "/root", node, "ext4", MountFlags::RELATIME, DISK)
}

/// The modules drive, beside what the image has for other kernels.
pub(super) fn modules(root: &Root, node: &Path) -> io::Result<()> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let path = format!("/lib/modules/{release}");
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    mount_in(root, &path, node, "ext4", flags, None)
}

/// What programs expect under `/dev` before any init is up: an init leaves it alone.
pub(super) fn for_programs(root: &Root) -> io::Result<()> {
    // Under /dev, which is still ours alone: it moves into the root as a whole.
    make_folder("/dev/pts")?;
    make_folder("/dev/shm")?;
    let tight = MountFlags::NOSUID | MountFlags::NOEXEC;
    let data = c"mode=620,gid=5,ptmxmode=000";
    mount("devpts", "/dev/pts", "devpts", tight, data)?;
    let tight = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", "/dev/shm", "tmpfs", tight, c"mode=1777")?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        match rustix::fs::symlink(target, link) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    root.ensure_folder("/run/lock", 0o1777)?;
    Ok(())
}

/// Control groups, where no init mounts them.
pub(super) fn cgroups(_root: &Root) -> io::Result<()> {
    let tight = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let data = c"nsdelegate";
    Ok(mount("cgroup2", "/sys/fs/cgroup", "cgroup2", tight, data)?)
}

/// Brings `/tmp` into the state that boot-time cleaning would leave it in, now: afterwards nobody
/// touches what an early command writes there. An image that has `/tmp` in memory gets that at once
/// too; an init finds it mounted.
pub(super) fn prepare_tmp(root: &Root, init: Option<InitKind>, report: &mut Report) {
    if init.is_none() || files::tmp_is_in_memory(root) {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let data = c"mode=1777,size=50%,nr_inodes=1m";
        let mounted = mount_in(root, "/tmp", Path::new("tmpfs"), "tmpfs", flags, Some(data));
        report.note("mount /tmp", mounted);
        return;
    }
    report.note("clean /tmp", clean_tmp(root));
}

fn clean_tmp(root: &Root) -> io::Result<()> {
    let folder = root.ensure_folder("/tmp", 0o1777)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(&folder, ".", flags, Mode::empty())?;
    let device = rustix::fs::fstat(&folder)?.st_dev;
    empty(folder.as_fd(), device)?;
    rustix::fs::chown(
        proc_path(folder.as_fd()),
        Some(rustix::fs::Uid::ROOT),
        Some(rustix::fs::Gid::ROOT),
    )?;
    Ok(rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o1777))?)
}

/// Removes what a folder holds, on its own file system only, following no link.
fn empty(folder: std::os::fd::BorrowedFd<'_>, device: u64) -> io::Result<()> {
    let mut entries = vec![];
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            entries.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in entries {
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(folder, &name, flags, Mode::empty())?;
            if rustix::fs::fstat(&inner)?.st_dev != device {
                continue;
            }
            empty(inner.as_fd(), device)?;
            // A mount point of another file system stays.
            let _ = rustix::fs::unlinkat(folder, &name, AtFlags::REMOVEDIR);
        } else {
            let _ = rustix::fs::unlinkat(folder, &name, AtFlags::empty());
        }
    }
    Ok(())
}

/// Makes the new root `/` and gives the initramfs' memory back.
pub(super) fn switch_root(new: &str) -> io::Result<()> {
    for path in ["/dev", "/proc", "/sys"] {
        // Made while /proc is still where the resolution of the new root needs it.
        Root::open(new)?.ensure_folder(path, 0o755)?;
    }
    for path in ["/dev", "/sys", "/proc"] {
        mount_move(path, PathBuf::from(format!("{new}{path}")))?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = rustix::fs::openat(CWD, "/", flags, Mode::empty())?;
    let device = rustix::fs::fstat(&old)?.st_dev;
    rustix::process::chdir(new)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    // Whatever cannot be removed only costs memory.
    let _ = empty(old.as_fd(), device);
    Ok(())
}
