//! Images that others have made, pulled from Debian's registry on loopback, boot as they are.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it cannot do"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use banger_e2e::{Banger, assert_powers_off, assert_sandbox, git, until};

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Debian's registry, with a folder to make images in.
struct Registry {
    child: Child,
    host: String,
    dir: tempfile::TempDir,
}

fn run(command: &mut Command) {
    let output = command.env("PATH", PATH).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

impl Registry {
    /// `None`, said loudly, where what makes images is missing.
    fn start() -> Option<Self> {
        for program in ["docker-registry", "skopeo", "umoci", "buildah", "busybox"] {
            let found = PATH
                .split(':')
                .any(|dir| Path::new(dir).join(program).exists());
            if !found {
                println!(
                    "SKIPPED(pulled images): {program} is not installed; scripts/setup does it"
                );
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = port.local_addr().unwrap().to_string();
        drop(port);
        let config = dir.path().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
            dir.path().join("registry").display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).env("PATH", PATH);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the registry answers", Duration::from_secs(30), || {
            std::net::TcpStream::connect(&host).is_ok()
        });
        Some(Self { child, host, dir })
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Pushes an image of one tree, made by umoci; returns its reference.
    fn push(&self, name: &str, tar: &Path) -> String {
        let layout = self.dir.path().join(format!("{name}-layout"));
        let image = format!("{}:1", layout.display());
        run(Command::new("umoci")
            .args(["init", "--layout"])
            .arg(&layout));
        run(Command::new("umoci").args(["new", "--image", &image]));
        run(Command::new("umoci")
            .args(["raw", "add-layer", "--image", &image])
            .arg(tar));
        self.copy(&format!("oci:{image}"), name)
    }

    fn copy(&self, from: &str, name: &str) -> String {
        let reference = format!("{}/{name}:1", self.host);
        run(Command::new("skopeo").args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            from,
            &format!("docker://{reference}"),
        ]));
        reference
    }

    fn tar(&self, folder: &Path, name: &str) -> PathBuf {
        let tar = self.dir.path().join(format!("{name}.tar"));
        let mut command = Command::new("tar");
        command
            .arg("-C")
            .arg(folder)
            .args(["--numeric-owner", "--owner=0", "--group=0", "-cf"]);
        run(command.arg(&tar).arg("."));
        tar
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name for an image that a test pulls: nothing has it before, nothing after.
struct Pulled<'a>(&'a Banger, &'static str);

impl<'a> Pulled<'a> {
    fn named(banger: &'a Banger, name: &'static str) -> Self {
        // An earlier run may have been cut off before its image was deleted.
        banger.run(&["image", "delete", name]);
        Self(banger, name)
    }
}

impl Drop for Pulled<'_> {
    fn drop(&mut self) {
        let deleted = self.0.run(&["image", "delete", self.1]);
        if !std::thread::panicking() {
            assert_eq!(deleted.code, 0, "{}", deleted.stderr);
        }
    }
}

fn busybox() -> PathBuf {
    let mut all = PATH.split(':').map(|dir| Path::new(dir).join("busybox"));
    all.find(|path| path.exists()).unwrap()
}

#[test]
fn a_single_static_program_is_an_image() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let banger = Banger::from_env();
    let folder = registry.folder("static");
    fs::copy(busybox(), folder.join("busybox")).unwrap();
    let _image = Pulled::named(&banger, "static-1");
    let reference = registry.push("static", &registry.tar(&folder, "static"));
    let finished = banger.run(&[
        "vm", "run", "--rm", "--image", &reference, "--", "/busybox", "uname", "-s",
    ]);
    assert_eq!(
        (finished.code, finished.stdout.as_str()),
        (0, "Linux\n"),
        "{}",
        finished.stderr
    );
    let image = banger.json(&["image", "show", "static-1"]);
    assert_eq!(image["reference"], reference.as_str());
    let notes = image["contents"].to_string();
    assert!(
        notes.contains("no shell") && notes.contains("no init"),
        "{notes}"
    );
    let vm = banger.vm(&["--image", &reference]);
    let repo = registry.folder("repo");
    git(&repo, &["init", "-q", "-b", "main"]);
    fs::write(repo.join("a.txt"), "sent\n").unwrap();
    git(&repo, &["add", "-A"]);
    let prepare = ["vm", "workspace", "prepare", &vm.name];
    let path = repo.to_str().unwrap();
    for _ in 0..2 {
        banger.ok(&[&prepare[..], &[path, "--readonly"]].concat());
        let sent = vm.exec(&["/busybox", "cat", "/root/repo/a.txt"]);
        assert_eq!(sent.stdout, "sent\n", "{}", sent.stderr);
        let written = vm.exec(&["/busybox", "touch", "/root/repo/a.txt"]);
        assert!(
            written.stderr.contains("Read-only"),
            "without a shell or mount: {written:?}"
        );
    }
    banger.ok(&[&prepare[..], &[path]].concat());
    assert_eq!(vm.exec(&["/busybox", "touch", "/root/repo/b"]).code, 0);
    drop(vm);
    // It is there now: nobody is asked for it again.
    drop(registry);
    let again = banger.run(&[
        "vm", "run", "--rm", "--image", &reference, "--", "/busybox", "id", "-u",
    ]);
    assert_eq!(
        (again.code, again.stdout.as_str()),
        (0, "0\n"),
        "{}",
        again.stderr
    );
}

#[test]
fn busybox_alone_by_buildah_is_a_sandbox() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let banger = Banger::from_env();
    let folder = registry.folder("busybox");
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::copy(busybox(), folder.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "ls", "cat", "hostname", "ip", "mount", "id", "sync", "test", "echo", "nslookup",
    ] {
        std::os::unix::fs::symlink("busybox", folder.join("bin").join(applet)).unwrap();
    }
    let store = registry.folder("store");
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        command
            .args(["--storage-driver", "vfs", "--root"])
            .arg(store.join("root"));
        command.arg("--runroot").arg(store.join("run"));
        command
            .args(args)
            .env("PATH", PATH)
            .env("BUILDAH_ISOLATION", "chroot");
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "buildah {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let policy = registry.dir.path().join("policy.json");
    fs::write(
        &policy,
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    )
    .unwrap();
    let container = buildah(&["from", "scratch"]);
    buildah(&["add", &container, folder.to_str().unwrap(), "/"]);
    buildah(&[
        "config",
        "--cmd",
        "sh",
        "--env",
        "KIND=busybox",
        "--port",
        "80/tcp",
        &container,
    ]);
    let layout = format!("oci:{}:1", registry.dir.path().join("built").display());
    buildah(&[
        "commit",
        "--signature-policy",
        policy.to_str().unwrap(),
        &container,
        &layout,
    ]);
    let reference = registry.copy(&layout, "team/busybox");
    let _image = Pulled::named(&banger, "by-buildah");
    banger.ok(&["image", "pull", &reference, "--name", "by-buildah"]);
    let image = banger.json(&["image", "show", "by-buildah"]);
    assert_eq!(image["config"]["cmd"][0], "sh");
    assert_eq!(image["config"]["exposed_ports"][0], "80/tcp");
    let vm = banger.vm(&["--image", "by-buildah"]);
    assert_eq!(
        vm.sh("hostname; id -u; cat /etc/hostname"),
        format!("{}\n0\n{}", vm.name, vm.name)
    );
    let address = vm.show()["address"].as_str().unwrap().to_owned();
    assert!(vm.sh("ip addr").contains(&address));
    assert!(
        vm.sh("mount").contains(" on /root "),
        "the work disk is there"
    );
    assert_eq!(banger.ok(&["vm", "ssh", &vm.name, "--", "id", "-u"]), "0\n");
    assert_sandbox(&banger, &vm);
}

/// `vm run --entrypoint` runs what the image runs as a container.
#[test]
fn an_images_own_entry_point_runs_as_its_user_in_its_folder() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let banger = Banger::from_env();
    let folder = registry.folder("entry");
    for inner in ["bin", "etc", "srv"] {
        fs::create_dir_all(folder.join(inner)).unwrap();
    }
    fs::copy(busybox(), folder.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", folder.join("bin/sh")).unwrap();
    let passwd = "root:x:0:0::/root:/bin/sh\nworker:x:1234:1234::/srv:/bin/sh\n";
    fs::write(folder.join("etc/passwd"), passwd).unwrap();
    let _image = Pulled::named(&banger, "entry-1");
    registry.push("entry", &registry.tar(&folder, "entry"));
    let layout = registry.dir.path().join("entry-layout");
    let image = format!("{}:1", layout.display());
    let line = "echo $1 in $PWD with $KIND; id -u";
    run(Command::new("umoci")
        .args(["config", "--image", &image])
        .args([
            "--config.entrypoint",
            "/bin/busybox",
            "--config.entrypoint",
            "sh",
            "--config.entrypoint",
            "-c",
            "--config.entrypoint",
            &line.replace("id -u", "/bin/busybox id -u"),
            "--config.entrypoint",
            "me",
            "--config.cmd",
            "usual",
            "--config.user",
            "worker",
            "--config.workingdir",
            "/srv",
            "--config.env",
            "KIND=entry",
        ]));
    let reference = registry.copy(&format!("oci:{image}"), "entry");
    let entry = |more: &[&str]| {
        let base = ["vm", "run", "--rm", "--image", &reference, "--entrypoint"];
        let args: Vec<&str> = base.iter().chain(more).copied().collect();
        let finished = banger.run(&args);
        (finished.code, finished.stdout, finished.stderr)
    };
    let (code, said, why) = entry(&[]);
    assert_eq!(
        (code, said.as_str()),
        (0, "usual in /srv with entry\n1234\n"),
        "{why}"
    );
    let (code, said, why) = entry(&["--env", "KIND=given", "--", "other"]);
    assert_eq!(
        (code, said.as_str()),
        (0, "other in /srv with given\n1234\n"),
        "{why}"
    );
    // The image's shell is there without it.
    let plain = banger.run(&[
        "vm", "run", "--rm", "--image", "entry-1", "--", "sh", "-c", "exit 3",
    ]);
    assert_eq!(plain.code, 3, "{}", plain.stderr);
    let none = [
        "vm",
        "run",
        "--rm",
        "--image",
        "debian-minimal",
        "--entrypoint",
    ];
    banger.run(&none).assert_failed(
        "no container's image",
        125,
        &["no entry point", "hint: give a command"],
    );
}

/// The tree of Debian's essential packages, which `scripts/guest-artefacts` made with the network there was.
#[test]
fn a_minimal_debian_without_init_is_a_sandbox() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let banger = Banger::from_env();
    let tar = banger.state_dir().join("../minbase.tar");
    assert!(
        tar.exists(),
        "scripts/guest-artefacts makes {}",
        tar.display()
    );
    let _image = Pulled::named(&banger, "minbase-1");
    let reference = registry.push("minbase", &tar);
    let vm = banger.vm(&["--image", &reference]);
    assert_eq!(
        vm.sh(". /etc/os-release; echo $ID; stat -c %a /usr/bin/su; stat -c %U:%G /etc/shadow"),
        "debian\n4755\nroot:shadow"
    );
    assert_sandbox(&banger, &vm);
    let image = banger.json(&["image", "show", "minbase-1"]);
    assert!(image["contents"].to_string().contains("no init"), "{image}");
}

/// The default image's own tree, as somebody else's image: systemd, sshd.
#[test]
fn a_full_debian_with_systemd_boots_and_takes_ssh() {
    let Some(registry) = Registry::start() else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED(pulled full Debian): making a layer of the default image needs root");
        return;
    }
    let banger = Banger::from_env();
    let rootfs = banger.json(&["image", "show", "debian-bookworm"])["rootfs"]
        .as_str()
        .unwrap()
        .to_owned();
    let mounted = registry.folder("mounted");
    run(Command::new("mount")
        .args(["-o", "loop,ro", &rootfs])
        .arg(&mounted));
    let tar = registry.dir.path().join("full.tar");
    let mut command = Command::new("tar");
    command.arg("-C").arg(&mounted).args([
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--exclude=./lost+found",
        "-cf",
    ]);
    let packed = command.arg(&tar).arg(".").output().unwrap();
    run(Command::new("umount").arg(&mounted));
    assert!(
        packed.status.success(),
        "{}",
        String::from_utf8_lossy(&packed.stderr)
    );
    let _image = Pulled::named(&banger, "full-1");
    let reference = registry.push("full", &tar);
    let vm = banger.vm(&["--image", &reference]);
    assert_eq!(vm.sh("cat /proc/1/comm"), "systemd");
    assert_eq!(
        banger.ok(&["vm", "ssh", &vm.name, "--", "hostname"]).trim(),
        vm.name
    );
    assert_eq!(
        vm.sh("systemctl is-active ssh.service || systemctl is-active ssh.socket"),
        "active"
    );
    vm.sh("echo 'UUID=4bad4bad-0000-4000-8000-4bad4bad4bad /data ext4 defaults 0 2' >>/etc/fstab");
    assert_sandbox(&banger, &vm);
    assert_eq!(vm.sh("systemctl is-active local-fs.target"), "active");
    assert!(vm.sh("cat /etc/fstab").contains("# not there: UUID=4bad"));
    assert_powers_off(&vm);
}

#[test]
fn what_cannot_be_pulled_leaves_nothing() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let banger = Banger::from_env();
    let missing = format!("{}/none:1", registry.host);
    let before = banger.json(&["image", "list"]);
    banger
        .run(&["image", "pull", &missing])
        .assert_failed("missing", 4, &["none:1"]);
    banger
        .run(&["image", "pull", "oci:/nowhere"])
        .assert_failed("no layout", 1, &["/nowhere"]);
    banger.run(&["image", "pull", "Bad:Ref"]).assert_failed(
        "malformed",
        2,
        &["not a valid image reference"],
    );
    banger
        .run(&["image", "pull", "debian:bookworm"])
        .assert_failed("a recipe's name", 5, &["--name"]);
    banger
        .run(&["vm", "run", "--rm", "--image", &missing, "--", "true"])
        .assert_failed("vm run", 125, &["none:1"]);
    assert_eq!(banger.json(&["image", "list"]), before);
}
