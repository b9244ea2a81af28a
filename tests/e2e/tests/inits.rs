//! Images with the inits that Debian has beside systemd: each boots as it is, is a sandbox, and ends cleanly. `scripts/guest-inits`
//! makes their trees, which takes minutes: `BANGER_E2E_INITS=1 scripts/e2e-tests` has them run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use banger_e2e::{Banger, Vm, assert_powers_off, assert_sandbox, until};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long an emulated guest may take to its gettys, beside three others.
const BOOT: Duration = Duration::from_secs(180);

/// An image of that tree, until it goes away.
struct Image<'a>(&'a Banger, String);

impl<'a> Image<'a> {
    fn of(banger: &'a Banger, init: &str) -> Self {
        let tar = banger.state_dir().join(format!("../inits/{init}.tar"));
        let name = format!("init-{init}");
        // An earlier run may have been cut off before its image was deleted.
        banger.run(&["image", "delete", &name]);
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout");
        let image = format!("{}:1", layout.display());
        umoci(&["init", "--layout"], &layout);
        umoci(&["new", "--image"], Path::new(&image));
        umoci(&["raw", "add-layer", "--image", &image], &tar);
        banger.ok(&["image", "pull", &format!("oci:{image}"), "--name", &name]);
        Self(banger, name)
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        self.0.run(&["image", "delete", &self.1]);
    }
}

fn umoci(args: &[&str], last: &Path) {
    let output = Command::new("umoci").args(args).arg(last).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "umoci {args:?}: {said}");
}

/// `first` is process 1's name, `booted` that of a program which runs once the init has read /etc/fstab for this boot.
fn boots(init: &str, said: &str, first: &str, booted: &str) {
    let banger = Banger::from_env();
    let image = Image::of(&banger, init);
    let shown = banger.json(&["image", "show", &image.1]);
    let contents = shown["contents"].to_string();
    assert!(contents.contains(said), "{contents}");
    let vm = banger.vm(&["--image", &image.1]);
    until("the init runs", PATIENCE, || {
        vm.sh("cat /proc/1/comm") == first
    });
    wait_until_booted(&vm, booted);
    // A device that never appears holds nobody up.
    vm.sh("echo 'UUID=4bad4bad-0000-4000-8000-4bad4bad4bad /data ext4 defaults 0 2' >>/etc/fstab");
    assert_sandbox(&banger, &vm);
    assert!(vm.sh("cat /etc/fstab").contains("# not there: UUID=4bad"));
    let ssh = banger.ok(&["vm", "ssh", &vm.name, "--", "id -u"]);
    assert_eq!(ssh, "0\n");
    // In its first stage runit loses what it is told, whoever tells it.
    wait_until_booted(&vm, booted);
    assert_powers_off(&vm);
}

fn wait_until_booted(vm: &Vm, booted: &str) {
    until("the init has booted", BOOT, || {
        vm.sh("cat /proc/[0-9]*/comm 2>/dev/null; true")
            .lines()
            .any(|name| name == booted)
    });
}

#[test]
#[ignore = "BANGER_E2E_INITS=1 makes its image"]
fn sysvinit() {
    boots("sysvinit", "init: /sbin/init", "init", "getty");
}

#[test]
#[ignore = "BANGER_E2E_INITS=1 makes its image"]
fn openrc() {
    boots("openrc", "init: OpenRC", "init", "getty");
}

#[test]
#[ignore = "BANGER_E2E_INITS=1 makes its image"]
fn runit() {
    boots("runit", "init: runit", "runit", "runsvdir");
}

#[test]
#[ignore = "BANGER_E2E_INITS=1 makes its image"]
fn s6() {
    boots("s6", "init: /sbin/init", "s6-svscan", "s6-svscan");
}
