//! The end of a guest: everything unmounted, one line on the console, a reset. Always a reset: under
//! Firecracker on x86 a guest that powers off halts for good, and the VMM goes on saying Running.

use std::path::Path;
use std::process::ExitCode;

use banger_guest_proto::{FAREWELL, ShutdownVerb};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::system::RebootCommand;

use crate::console;

/// How often what is mounted is gone through: each round frees what the next can unmount.
const ROUNDS: usize = 8;

/// What the end itself needs, and holds no data: the mount table and the console.
const NEEDED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// As `/shutdown`, executed by systemd-shutdown after it has ended every process and unmounted what
/// it could (bootup(7), "Shutdown": it enters `/run/initramfs`, the old root is at `/oldroot`).
pub(crate) fn after_systemd(verb: &str) -> ExitCode {
    let verb = match verb {
        "reboot" | "kexec" | "soft-reboot" => ShutdownVerb::Reboot,
        _ => ShutdownVerb::Poweroff,
    };
    if !Path::new("/proc/self").exists() {
        let _ = std::fs::create_dir("/proc");
        let _ = rustix::mount::mount("proc", "/proc", "proc", MountFlags::empty(), None);
    }
    unmount_under("/oldroot");
    end(verb)
}

/// Says farewell and resets the machine. Returns only when the kernel refuses.
pub(crate) fn end(verb: ShutdownVerb) -> ExitCode {
    rustix::fs::sync();
    console::say_and_drain(&format!("{FAREWELL}{}", verb.as_str()));
    reset()
}

/// Resets without a farewell: the host then takes the VM for failed.
pub(crate) fn reset() -> ExitCode {
    let refused = rustix::system::reboot(RebootCommand::Restart);
    console::complain(&format!("the kernel refused to restart: {refused:?}"));
    ExitCode::FAILURE
}

/// Unmounts all that is mounted at or under a folder, deepest first; what is busy becomes read-only.
pub(crate) fn unmount_under(folder: &str) {
    for _ in 0..ROUNDS {
        let mut failed = false;
        for place in mounts_under(folder).iter().rev() {
            failed |= rustix::mount::unmount(place.as_str(), UnmountFlags::empty()).is_err();
        }
        if !failed {
            break;
        }
    }
    for place in mounts_under(folder).iter().rev() {
        let _ = rustix::mount::mount_remount(place.as_str(), MountFlags::RDONLY, c"");
    }
}

/// What is mounted at or under a folder, in the order of mounting (proc_pid_mountinfo(5)).
fn mounts_under(folder: &str) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    let inside = places.map(unescape).filter(|place| {
        let rest = place.strip_prefix(folder.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    let inside = inside.filter(|place| !NEEDED.iter().any(|needed| place.starts_with(needed)));
    inside.collect()
}

/// Undoes the octal escapes of space, tab, newline and backslash.
pub(crate) fn unescape(field: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_of_the_mount_table_are_undone() {
        assert_eq!(super::unescape("/a\\040b\\134c"), "/a b\\c");
    }

    #[test]
    fn the_end_keeps_what_it_needs_itself() {
        let all = super::mounts_under("/");
        assert!(all.iter().any(|place| place == "/"), "{all:?}");
        assert!(!all.iter().any(|place| place == "/proc"), "{all:?}");
        assert_eq!(super::mounts_under("/no-such"), Vec::<String>::new());
    }
}
