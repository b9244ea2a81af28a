//! Which init an image has, by the rule that pulls go by.

use banger_core::{ImageFiles, InitFamily, find_init};
use banger_guest_proto::InitKind;

use crate::root::Root;

/// An image's init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: &'static str,
    pub(super) kind: InitKind,
}

impl ImageFiles for Root {
    type File = (u64, u64);

    fn program(&self, path: &str) -> Option<(u64, u64)> {
        let found = self.stat(path).filter(|_| self.is_program(path))?;
        Some((found.st_dev, found.st_ino))
    }

    fn real_path(&self, path: &str) -> Option<String> {
        Root::real_path(self, path)
    }
}

/// The image's init, when it has one.
pub(super) fn detect(root: &Root) -> Option<Found> {
    let found = find_init(root)?;
    let kind = match found.family {
        InitFamily::Systemd => InitKind::Systemd,
        InitFamily::OpenRc => InitKind::OpenRc,
        InitFamily::Runit | InitFamily::S6 | InitFamily::Other => InitKind::Other,
    };
    Some(Found {
        path: found.path,
        kind,
    })
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
