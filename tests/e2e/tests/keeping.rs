//! Images of the owner's own files: registered, booted, promoted, deleted; and kernels that are deleted.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use banger_e2e::{Banger, until};

/// Files of the small image's, in a folder beside the VMs'; the image `mine` and the folder go with the value.
struct Mine {
    banger: Banger,
    dir: tempfile::TempDir,
}

impl Mine {
    fn new() -> Self {
        let banger = Banger::from_env();
        // An earlier run may have been cut off.
        banger.run(&["image", "delete", "mine"]);
        let dir = tempfile::tempdir_in(banger.state_dir().join("..")).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let image = banger.json(&["image", "show", "debian-minimal"]);
        let mine = Self { banger, dir };
        mine.copy(image["rootfs"].as_str().unwrap(), "root.ext4");
        mine.copy(image["work_seed"].as_str().unwrap(), "seed.ext4");
        mine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn copy(&self, from: &str, name: &str) {
        let mut command = Command::new("cp");
        command
            .arg("--sparse=always")
            .arg(from)
            .arg(self.path(name));
        assert!(command.status().unwrap().success(), "{name}");
    }

    fn register(&self, more: &[&str]) -> banger_e2e::Finished {
        let root = self.path("root.ext4");
        let seed = self.path("seed.ext4");
        let mut args = vec!["image", "register", "--name", "mine"];
        args.extend(["--rootfs", root.to_str().unwrap()]);
        args.extend(["--work-seed", seed.to_str().unwrap()]);
        args.extend(more);
        self.banger.run(&args)
    }

    fn registered(&self) {
        let finished = self.register(&[]);
        assert_eq!(finished.code, 0, "{}", finished.stderr);
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        self.banger.run(&["image", "delete", "mine"]);
    }
}

const FLAGS: &[&str] = &["--wait", "reachable", "--memory", "256", "--image", "mine"];

#[test]
fn registered_files_boot_are_promoted_and_deleted_and_stay_their_owners() {
    let mine = Mine::new();
    let banger = &mine.banger;
    mine.registered();
    let image = banger.json(&["image", "show", "mine"]);
    assert_eq!(image["origin"], "registered");
    assert_eq!(image["rootfs"], mine.path("root.ext4").to_str().unwrap());
    let vm = banger.vm(FLAGS);
    vm.sh("echo kept >/kept; sync");
    let used = banger.run(&["image", "delete", "mine"]);
    used.assert_failed("an image with a VM", 5, &["[in_use]", &vm.name]);

    banger.ok(&["image", "promote", "mine"]);
    let promoted = banger.json(&["image", "show", "mine"]);
    assert_eq!(promoted["digest"], image["digest"]);
    assert_ne!(promoted["rootfs"], image["rootfs"]);
    // Its VMs go on with the copy, with what they had written.
    banger.ok(&["vm", "stop", &vm.name]);
    fs::remove_file(mine.path("root.ext4")).unwrap();
    banger.ok(&["vm", "start", &vm.name]);
    assert_eq!(vm.sh("cat /kept"), "kept");
    banger.ok(&["image", "promote", "mine"]);
    drop(vm);
    banger.ok(&["image", "delete", "mine"]);
    assert!(!Path::new(promoted["rootfs"].as_str().unwrap()).exists());

    mine.copy(
        banger.json(&["image", "show", "debian-minimal"])["rootfs"]
            .as_str()
            .unwrap(),
        "root.ext4",
    );
    mine.registered();
    banger.ok(&["image", "delete", "mine"]);
    assert!(mine.path("root.ext4").exists(), "only its record is gone");
}

#[test]
fn a_work_seed_that_is_missing_is_made_after_the_first_create() {
    let mine = Mine::new();
    let banger = &mine.banger;
    let root = mine.path("root.ext4");
    fs::write(mine.path("profile"), "echo mine\n").unwrap();
    let commands = format!(
        "write {} /root/.profile\nmkdir /root/bin\nsymlink /root/bin/sh /bin/sh\n",
        mine.path("profile").display()
    );
    fs::write(mine.path("commands"), commands).unwrap();
    let mut debugfs = Command::new("/usr/sbin/debugfs");
    debugfs.args(["-w", "-f"]).arg(mine.path("commands"));
    assert!(debugfs.arg(&root).status().unwrap().success());
    banger.ok(&[
        "image",
        "register",
        "--name",
        "mine",
        "--rootfs",
        root.to_str().unwrap(),
    ]);
    let state = || banger.json(&["image", "show", "mine"])["work_seed_state"].clone();
    assert_eq!(state(), "missing");
    // Never in its way: the first VM has an empty one.
    let first = banger.vm(FLAGS);
    assert_eq!(first.sh("ls -A /root | grep -c profile || true"), "0");
    until("the seed is made", Duration::from_secs(30), || {
        state() == "current"
    });
    let image = banger.json(&["image", "show", "mine"]);
    assert_eq!(image["work_seed_origin"]["made_from"], image["digest"]);
    drop(first);
    let second = banger.vm(FLAGS);
    // With times, modes and owners.
    let all = "tar c .profile bin | sha256sum";
    let own = second.sh(&format!(
        "mkdir /tmp/own && mount --bind / /tmp/own && cd /tmp/own/root && {all}"
    ));
    let has = second.sh(&format!("cd /root && {all}"));
    assert_eq!(own, has);
    assert_eq!(second.sh("cat /root/.profile"), "echo mine");
}

#[test]
fn a_file_that_has_changed_boots_nothing_until_it_is_registered_again() {
    let mine = Mine::new();
    let banger = &mine.banger;
    mine.registered();
    let file = fs::File::options()
        .append(true)
        .open(mine.path("root.ext4"));
    file.unwrap().set_len(64 << 30).unwrap();
    let base = ["vm", "create", "--no-start", "--name", "changed"];
    let create: Vec<&str> = base.iter().chain(FLAGS).copied().collect();
    let finished = banger.run(&create);
    finished.assert_failed("a changed file", 4, &["has changed", "register it again"]);
    banger.run(&["vm", "delete", "--force", "changed"]);
    let finished = banger.run(&["image", "promote", "mine"]);
    finished.assert_failed("a changed file", 2, &["has changed"]);
    let shown = banger.json(&["image", "show", "mine"]);
    assert_eq!(shown["origin"], "registered");
}

#[test]
fn what_cannot_be_registered_promoted_or_deleted_changes_nothing() {
    let mine = Mine::new();
    let banger = &mine.banger;
    let before = banger.json(&["kernel", "list"]);
    fs::write(mine.path("text"), "no file system").unwrap();
    let text = mine.path("text");
    let text = text.to_str().unwrap();
    let register = |rootfs: &str| {
        let args = ["image", "register", "--name", "mine", "--rootfs", rootfs];
        banger.run(&args)
    };
    register(text).assert_failed("a text", 2, &["[invalid_argument]"]);
    register("/nowhere").assert_failed("no file", 4, &["[file_not_found]"]);
    register(mine.dir.path().to_str().unwrap()).assert_failed("a folder", 2, &["regular file"]);
    mine.register(&["--kernel", text]).assert_failed(
        "a text as a kernel",
        1,
        &["[invalid_kernel]"],
    );
    mine.register(&["--kernel-ref", "nowhere"]).assert_failed(
        "an unknown kernel",
        4,
        &["[kernel_not_found]"],
    );
    mine.register(&["--kernel-ref", "../6"])
        .assert_failed("no name of a kernel", 2, &[]);
    let none = banger.run(&["image", "show", "mine"]);
    none.assert_failed("it was never registered", 4, &["[image_not_found]"]);
    for verb in ["promote", "delete"] {
        let finished = banger.run(&["image", verb, "nowhere"]);
        finished.assert_failed(verb, 4, &["[image_not_found]"]);
        let finished = banger.run(&["image", verb, "../nowhere"]);
        finished.assert_failed(verb, 2, &[]);
    }
    let kernels = banger.json(&["kernel", "list"]);
    assert_eq!(kernels, before, "none of a failed registration is left");
    let mut kernels = kernels["kernels"].as_array().unwrap().iter();
    let default = kernels.find(|kernel| kernel["default"] == true);
    let default = default.unwrap()["name"].as_str().unwrap();
    let vm = banger.vm(&["--no-start", "--image", "debian-minimal"]);
    let used = banger.run(&["kernel", "delete", default]);
    used.assert_failed("a kernel with a VM", 5, &["[in_use]", &vm.name]);
    let unknown = banger.run(&["kernel", "delete", "nowhere"]);
    unknown.assert_failed("an unknown kernel", 4, &["[kernel_not_found]"]);
}

/// The kernel of an image goes with it; one that stands by itself goes when it is told to.
#[test]
fn kernels_go_with_their_images_or_by_themselves() {
    let mine = Mine::new();
    let banger = &mine.banger;
    let kernels = || banger.json(&["kernel", "list"])["kernels"].clone();
    let before = kernels();
    let vmlinux = before[0]["vmlinux"].as_str().unwrap();
    let finished = mine.register(&["--kernel", vmlinux]);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let its = banger.json(&["image", "show", "mine"])["kernel"].clone();
    let its = its.as_str().unwrap();
    assert!(its.starts_with("mine-"), "{its}");
    let used = banger.run(&["kernel", "delete", its]);
    used.assert_failed("a kernel that an image asks for", 5, &["the image `mine`"]);
    banger.ok(&["image", "delete", "mine"]);
    assert_eq!(kernels(), before);
    banger.ok(&["kernel", "import", vmlinux, "--name", "spare"]);
    banger.ok(&["kernel", "delete", "spare"]);
    assert_eq!(kernels(), before, "the default one is as it was");
}
