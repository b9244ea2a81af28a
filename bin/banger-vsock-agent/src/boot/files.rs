//! What an image's own files say about how it will boot.

use crate::root::Root;

/// Where systemd looks for units that a target wants, of those that an image can have.
const UNIT_FOLDERS: [&str; 3] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Whether a target wants that unit.
pub(crate) fn is_wanted(root: &Root, target: &str, unit: &str) -> bool {
    let masked = root
        .real_path(&format!("/etc/systemd/system/{unit}"))
        .is_some_and(|path| path == "/dev/null");
    let wanted = |folder: &&str| root.has_entry(&format!("{folder}/{target}.wants/{unit}"));
    !masked && UNIT_FOLDERS.iter().any(|folder| wanted(&folder))
}

/// Whether the image mounts a tmpfs at `/tmp`: by systemd's own unit, or in fstab(5).
pub(super) fn tmp_is_in_memory(root: &Root) -> bool {
    is_wanted(root, "local-fs.target", "tmp.mount") || fstab_has_tmp(&root.read_text("/etc/fstab"))
}

fn fstab_has_tmp(fstab: &str) -> bool {
    fstab.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let device = fields.next().unwrap_or("#");
        !device.starts_with('#') && fields.next() == Some("/tmp") && fields.next() == Some("tmpfs")
    })
}

/// Whether the image starts an ssh server at boot.
pub(crate) fn has_sshd(root: &Root) -> bool {
    let units = ["ssh.service", "sshd.service"];
    units
        .iter()
        .any(|unit| is_wanted(root, "multi-user.target", unit))
        || is_wanted(root, "sockets.target", "ssh.socket")
        || is_wanted(root, "sockets.target", "sshd.socket")
        || root.has_entry("/etc/runlevels/default/sshd")
}

#[cfg(test)]
mod tests {
    use super::fstab_has_tmp;

    #[test]
    fn fstab_lines_are_read_as_fields() {
        assert!(fstab_has_tmp("# x\ntmpfs\t/tmp tmpfs defaults 0 0\n"));
        assert!(!fstab_has_tmp("# tmpfs /tmp tmpfs defaults 0 0\n"));
        assert!(!fstab_has_tmp("/dev/vdx /tmp ext4 defaults 0 0\n"));
        assert!(!fstab_has_tmp("tmpfs /tmp2 tmpfs\n\n"));
    }
}
