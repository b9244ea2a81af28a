//! Which init an image has: told by what it is, not by what it is called.

use banger_guest_proto::InitKind;

use crate::root::Root;

/// An image's init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: &'static str,
    pub(super) kind: InitKind,
}

const CANDIDATES: [&str; 3] = [
    "/sbin/init",
    "/usr/lib/systemd/systemd",
    "/lib/systemd/systemd",
];

/// The image's init, when it has one.
pub(super) fn detect(root: &Root) -> Option<Found> {
    let path = CANDIDATES.into_iter().find(|path| root.is_program(path))?;
    let real = root.real_path(path)?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .filter_map(|path| root.stat(path));
    // A hard link to busybox has another name; the file is the same.
    let this = root.stat(path)?;
    let is_busybox = real.ends_with("/busybox")
        || busybox
            .into_iter()
            .any(|it| (it.st_dev, it.st_ino) == (this.st_dev, this.st_ino));
    let has_openrc = root.is_program("/sbin/openrc");
    let kind = if real.ends_with("/systemd") {
        InitKind::Systemd
    } else if has_openrc && (is_busybox || real.contains("openrc")) {
        InitKind::OpenRc
    } else if is_busybox {
        // Without OpenRC's inittab it would only ask for terminals that a VM does not have.
        return None;
    } else {
        InitKind::Other
    };
    Some(Found { path, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn program(root: &Path, path: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.to_str().unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn found(make: impl FnOnce(&Path)) -> Option<InitKind> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sbin")).unwrap();
        make(folder.path());
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        detect(&root).map(|found| found.kind)
    }

    #[test]
    fn an_init_is_told_by_what_it_is() {
        assert_eq!(found(|_| ()), None);
        let systemd = found(|root| {
            program(root, "lib/systemd/systemd");
            symlink("/lib/systemd/systemd", root.join("sbin/init")).unwrap();
        });
        assert_eq!(systemd, Some(InitKind::Systemd));
        let busybox = found(|root| {
            program(root, "bin/busybox");
            symlink("/bin/busybox", root.join("sbin/init")).unwrap();
        });
        assert_eq!(busybox, None);
        let hard_linked = found(|root| {
            program(root, "bin/busybox");
            fs::hard_link(root.join("bin/busybox"), root.join("sbin/init")).unwrap();
        });
        assert_eq!(hard_linked, None);
        let alpine = found(|root| {
            program(root, "bin/busybox");
            program(root, "sbin/openrc");
            symlink("/bin/busybox", root.join("sbin/init")).unwrap();
        });
        assert_eq!(alpine, Some(InitKind::OpenRc));
        let sysv = found(|root| program(root, "sbin/init"));
        assert_eq!(sysv, Some(InitKind::Other));
    }

    #[test]
    fn a_link_out_of_the_image_does_not_lead_out() {
        // On the test's own machine /bin/sh exists; in the image it does not.
        let escaped = found(|root| symlink("../../../../bin/sh", root.join("sbin/init")).unwrap());
        assert_eq!(escaped, None);
    }
}
