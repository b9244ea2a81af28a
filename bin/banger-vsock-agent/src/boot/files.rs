//! What an image's own files say about how it will boot.

use crate::root::Root;

/// Where systemd looks for units that a target wants, of those that an image can have.
pub(super) const UNIT_FOLDERS: [&str; 3] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Whether a target wants that unit.
pub(crate) fn is_wanted(root: &Root, target: &str, unit: &str) -> bool {
    // By the link's text: the image's own /dev is still empty.
    let mask = root.link_target(&format!("/etc/systemd/system/{unit}"));
    let masked = mask.is_some_and(|target| target == "/dev/null");
    let wanted = |folder: &str| root.has_entry(&format!("{folder}/{target}.wants/{unit}"));
    !masked && UNIT_FOLDERS.into_iter().any(wanted)
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
    use super::{fstab_has_tmp, is_wanted};
    use crate::root::Root;

    #[test]
    fn a_mask_counts_also_where_there_is_no_dev_null() {
        let folder = tempfile::tempdir().unwrap();
        let units = folder.path().join("etc/systemd/system");
        let wants = units.join("multi-user.target.wants");
        std::fs::create_dir_all(&wants).unwrap();
        let link = std::os::unix::fs::symlink;
        link("/lib/systemd/system/ssh.service", wants.join("ssh.service")).unwrap();
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        assert!(is_wanted(&root, "multi-user.target", "ssh.service"));
        assert!(!is_wanted(&root, "sockets.target", "ssh.service"));
        link("/dev/null", units.join("ssh.service")).unwrap();
        assert!(!is_wanted(&root, "multi-user.target", "ssh.service"));
    }

    #[test]
    fn fstab_lines_are_read_as_fields() {
        assert!(fstab_has_tmp("# x\ntmpfs\t/tmp tmpfs defaults 0 0\n"));
        assert!(!fstab_has_tmp("# tmpfs /tmp tmpfs defaults 0 0\n"));
        assert!(!fstab_has_tmp("/dev/vdx /tmp ext4 defaults 0 0\n"));
        assert!(!fstab_has_tmp("tmpfs /tmp2 tmpfs\n\n"));
    }
}
