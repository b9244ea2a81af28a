//! The default service: an image that carries opencode serves it, to the host and to other VMs.

use std::io;

use super::files::{UNIT_FOLDERS, is_wanted};
use super::overrides::{add_unit, has_unit};
use crate::root::Root;

/// Where it listens, on all of the guest's addresses.
pub(crate) const PORT: u16 = 4096;

const UNIT: &str = "opencode.service";

/// What starts it.
const TARGET: &str = "multi-user.target";

/// Where installers put the program.
const PROGRAMS: [&str; 3] = [
    "/usr/local/bin/opencode",
    "/usr/bin/opencode",
    "/root/.opencode/bin/opencode",
];

/// Has systemd serve it, unless the image has a unit of that name, which then says what happens.
pub(super) fn offer(root: &Root) -> io::Result<()> {
    let Some(program) = PROGRAMS.into_iter().find(|path| root.is_program(path)) else {
        return Ok(());
    };
    let mut folders = UNIT_FOLDERS.into_iter();
    if folders.any(|folder| root.has_entry(&format!("{folder}/{UNIT}"))) {
        return Ok(());
    }
    add_unit(root, (UNIT, &unit(program)), TARGET)
}

/// Whether this boot starts it.
pub(crate) fn is_served(root: &Root) -> bool {
    is_wanted(root, TARGET, UNIT) || has_unit(root, UNIT, TARGET)
}

fn unit(program: &str) -> String {
    format!(
        "[Unit]\n\
         Description=opencode\n\
         After=network.target\n\
         \n\
         [Service]\n\
         Environment=HOME=/root\n\
         WorkingDirectory=/root\n\
         ExecStart={program} serve --hostname 0.0.0.0 --port {PORT}\n\
         Restart=on-failure\n"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn image(make: impl FnOnce(&Path)) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        (folder, root)
    }

    fn program(root: &Path) {
        let path = root.join("usr/local/bin/opencode");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn an_image_with_the_program_serves_it_and_one_without_promises_nothing() {
        let (_folder, with) = image(program);
        assert!(!is_served(&with));
        offer(&with).unwrap();
        assert!(is_served(&with));
        let text = with.read_text("/run/systemd/system/opencode.service");
        assert!(
            text.contains(
                "ExecStart=/usr/local/bin/opencode serve --hostname 0.0.0.0 --port 4096\n"
            )
        );
        let (_folder, without) = image(|_| ());
        offer(&without).unwrap();
        assert!(!is_served(&without));
    }

    #[test]
    fn the_images_own_unit_goes_before_and_can_say_no() {
        let (_folder, masked) = image(|root| {
            program(root);
            let units = root.join("etc/systemd/system");
            fs::create_dir_all(&units).unwrap();
            symlink("/dev/null", units.join(UNIT)).unwrap();
        });
        offer(&masked).unwrap();
        assert!(!is_served(&masked));
        let (_folder, own) = image(|root| {
            program(root);
            let wants = root.join("etc/systemd/system/multi-user.target.wants");
            fs::create_dir_all(&wants).unwrap();
            fs::write(root.join("etc/systemd/system").join(UNIT), "[Service]").unwrap();
            symlink("../opencode.service", wants.join(UNIT)).unwrap();
        });
        offer(&own).unwrap();
        assert!(is_served(&own));
        assert!(!own.has_entry("/run/systemd/system/opencode.service"));
    }
}
