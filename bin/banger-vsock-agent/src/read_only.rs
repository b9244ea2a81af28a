//! `read-only PATH` and `writable PATH`: a folder that programs in the guest may read only, also where the image has neither a
//! shell nor `mount`.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};

use crate::console;
use crate::farewell::unescape;

/// Binds the folder onto itself, and makes that read-only.
pub(crate) fn make(args: &[OsString]) -> ExitCode {
    told(args, |path| {
        if !is_read_only(path) {
            mount_bind(path, path)?;
            let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::RELATIME;
            mount_remount(path, flags, c"")?;
        }
        Ok(())
    })
}

/// Undoes it. A folder that is no mount is left as it is.
pub(crate) fn undo(args: &[OsString]) -> ExitCode {
    told(args, |path| {
        while is_read_only(path) {
            unmount(path, UnmountFlags::empty())?;
        }
        Ok(())
    })
}

fn told(args: &[OsString], act: impl FnOnce(&Path) -> io::Result<()>) -> ExitCode {
    let [path] = args else {
        console::complain("one folder is to be named");
        return ExitCode::from(2);
    };
    // As the mount table has it: without what stands for nothing.
    let path: PathBuf = Path::new(path).components().collect();
    match act(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::complain(&format!("{}: {error}", path.display()));
            ExitCode::FAILURE
        }
    }
}

fn is_read_only(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    top_is_read_only(&table, path)
}

/// Whether the last mount at that place, which is the one that is seen, is read-only (proc_pid_mountinfo(5)).
fn top_is_read_only(table: &str, path: &Path) -> bool {
    let mut mounts = table.lines().rev().filter_map(|line| {
        let mut fields = line.split(' ').skip(4);
        Some((unescape(fields.next()?), fields.next()?))
    });
    let seen = mounts.find(|(place, _)| Path::new(place) == path);
    seen.is_some_and(|(_, options)| options.split(',').any(|option| option == "ro"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_place_counts() {
        let table = "30 1 8:1 / /root rw,relatime - ext4 /dev/vdb rw\n\
                     31 30 8:1 /repo /root/repo rw,relatime - ext4 /dev/vdb rw\n\
                     32 31 8:1 /repo /root/repo ro,relatime - ext4 /dev/vdb rw\n\
                     33 30 8:1 /a\\040b /root/a\\040b ro,relatime - ext4 /dev/vdb rw\n";
        let is = |path: &str| top_is_read_only(table, Path::new(path));
        assert!(is("/root/repo") && is("/root/a b"));
        assert!(!is("/root") && !is("/root/rep") && !is("/none"));
        assert!(!top_is_read_only("nonsense\n\n1 2 3 4", Path::new("/")));
    }
}
