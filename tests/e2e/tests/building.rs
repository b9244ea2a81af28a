//! Images built on others, in builders that are gone afterwards.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use banger_e2e::{Banger, Finished, Terminal, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// An image that a test makes: nothing has its name before, nothing after.
struct Made<'a>(&'a Banger, &'static str);

impl<'a> Made<'a> {
    fn named(banger: &'a Banger, name: &'static str) -> Self {
        // An earlier run may have been cut off before its image was deleted.
        banger.run(&["image", "delete", name]);
        Self(banger, name)
    }

    fn show(&self) -> Value {
        self.0.json(&["image", "show", self.1])
    }

    fn digest(&self) -> String {
        self.show()["digest"].as_str().unwrap().to_owned()
    }

    /// What a shell line says in a VM of the image.
    fn sh(&self, line: &str) -> String {
        let run = [
            "vm", "run", "--rm", "--memory", "256", "--image", self.1, "--", "sh", "-c", line,
        ];
        self.0.ok(&run).trim_end().to_owned()
    }

    fn exists(&self) -> bool {
        self.0.run(&["image", "show", self.1]).code == 0
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        self.0.run(&["image", "delete", self.1]);
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn assert_no_builder(banger: &Banger) {
    let all = banger.json(&["vm", "list"])["vms"].to_string();
    assert!(!all.contains("image-build-"), "{all}");
}

/// The log of the build of that name.
fn log(banger: &Banger, name: &str) -> String {
    let log = banger.state_dir().join(format!("logs/build-{name}.log"));
    fs::read_to_string(log).unwrap_or_default()
}

fn build(banger: &Banger, name: &str, rest: &[&str]) -> Finished {
    let base = ["image", "build", name];
    banger.run(&base.iter().chain(rest).copied().collect::<Vec<_>>())
}

/// A build whose only step has begun and goes on until it is ended.
fn endless(banger: &Banger, folder: &Path, name: &str) -> Child {
    write(
        folder,
        "Dockerfile",
        "FROM debian-minimal\nRUN echo begun; sleep 1000\n",
    );
    let child = banger.spawn(&["image", "build", name, folder.to_str().unwrap()]);
    until("the step has begun", Duration::from_secs(120), || {
        log(banger, name).contains("begun\n")
    });
    child
}

#[test]
fn a_script_on_top_of_an_image_is_an_image() {
    let banger = Banger::from_env();
    let dir = tempfile::tempdir().unwrap();
    let made = Made::named(&banger, "t-script");
    // An earlier run may have left the same state in the cache.
    let text = format!(
        "#!/bin/sh\n# {}\nset -e\necho made here >/etc/made\necho seed >/root/seed\necho to stderr >&2\nid -u >/etc/who\n",
        dir.path().display()
    );
    let script = write(dir.path(), "setup.sh", &text);
    let flags = [
        "--from",
        "debian-minimal",
        "--script",
        script.to_str().unwrap(),
    ];
    let built = build(&banger, "t-script", &flags);
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert_no_builder(&banger);
    assert!(log(&banger, "t-script").contains("to stderr"));
    let digest = made.digest();
    assert!(
        made.show()["built_on"]
            .to_string()
            .contains("debian-minimal")
    );
    let seen = made.sh("cat /etc/made /root/seed /etc/who; cat /etc/machine-id | wc -c; ls /run/banger-build 2>/dev/null; df -m / | tail -1 | awk '{print $4}'");
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[..4], ["made here", "seed", "0", "33"], "{seen}");
    assert!(lines[4].parse::<u64>().unwrap() > 7500, "{seen}");
    // The same again is there already, and so it is after a deletion.
    let again = build(&banger, "t-script", &flags);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!(made.digest(), digest);
    banger.ok(&["image", "delete", "t-script"]);
    let again = build(&banger, "t-script", &flags);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stderr.contains("(cached)"), "{}", again.stderr);
    assert_eq!(made.digest(), digest);
    // Another script is another image.
    write(dir.path(), "setup.sh", "#!/bin/sh\necho other >/etc/made\n");
    assert_eq!(build(&banger, "t-script", &flags).code, 0);
    assert_ne!(made.digest(), digest);
    assert_eq!(
        made.sh("cat /etc/made /root/seed 2>/dev/null; true"),
        "other"
    );
    assert_no_builder(&banger);
}

const DOCKERFILE: &str = r#"# what follows is one stage and another
ARG BASE=debian-minimal
FROM ${BASE} AS tools
WORKDIR /out
RUN printf '#!/bin/sh\necho tool\n' >tool && chmod 4755 tool && mkdir -p deep/er && echo x >deep/er/file
FROM debian-minimal
ARG WHO=nobody
ENV GREETING="hello ${WHO}" EMPTY=
LABEL org.example.what="a test"
WORKDIR /app/src
COPY --from=tools /out/tool /usr/local/bin/
COPY --from=tools /out/deep ./deep
COPY src .
COPY --chown=7:8 --chmod=640 one.txt two.* /data/
COPY <<EOF /etc/inline
greeting is $GREETING
EOF
RUN echo "$GREETING from $WHO in $(pwd)" \
    # a comment in between
    >/app/said && echo 'me:x:1000:1000::/:/bin/sh' >>/etc/passwd && mkdir -m 777 /mine
RUN ["/bin/touch", "/app/$exec"]
USER me
RUN id -u >/mine/who
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/tool"]
CMD ["serve"]
"#;

fn context(dir: &Path) {
    write(dir, "src/main.c", "main\n");
    write(dir, "src/sub/more.c", "more\n");
    write(dir, "src/skipped.o", "object\n");
    write(dir, "one.txt", "1\n");
    write(dir, "two.txt", "2\n");
    write(dir, ".dockerignore", "**/*.o\n");
    // An earlier run may have left the same states in the cache.
    let own = format!("WORKDIR /out\nRUN : {}\n", dir.display());
    let text = DOCKERFILE.replacen("WORKDIR /out\n", &own, 1);
    write(dir, "Dockerfile", &text);
    symlink("main.c", dir.join("src/link")).unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.join("src/main.c"), mode).unwrap();
}

#[test]
fn a_dockerfile_of_two_stages_is_built_and_cached() {
    let banger = Banger::from_env();
    let dir = tempfile::tempdir().unwrap();
    context(dir.path());
    let made = Made::named(&banger, "t-docker");
    let here = dir.path().to_str().unwrap();
    let flags = [here, "--build-arg", "WHO=you"];
    let built = build(&banger, "t-docker", &flags);
    assert_eq!(
        built.code,
        0,
        "{}\n{}",
        built.stderr,
        log(&banger, "t-docker")
    );
    assert_no_builder(&banger);
    let seen = made.sh(
        "cat /app/said /etc/inline /mine/who; find /app /data | sort; stat -c '%u:%g %a' /data/one.txt /data/two.txt /app/src/main.c /usr/local/bin/tool; readlink /app/src/link; cat /app/src/deep/er/file; tool",
    );
    let expected = "hello you from you in /app/src\ngreeting is hello you\n1000\n/app\n/app/$exec\n/app/said\n/app/src\n/app/src/deep\n/app/src/deep/er\n/app/src/deep/er/file\n/app/src/link\n/app/src/main.c\n/app/src/sub\n/app/src/sub/more.c\n/data\n/data/one.txt\n/data/two.txt\n7:8 640\n7:8 640\n0:0 755\n0:0 4755\nmain.c\nx\ntool";
    assert_eq!(seen, expected);
    let image = made.show();
    let config = &image["config"];
    assert_eq!(config["entrypoint"][0], "/usr/local/bin/tool");
    assert_eq!(config["cmd"][0], "serve");
    assert_eq!(config["user"], "me");
    assert_eq!(config["working_dir"], "/app/src");
    assert_eq!(config["exposed_ports"][0], "8080/tcp");
    assert!(
        config["env"].to_string().contains("GREETING=hello you"),
        "{config}"
    );
    // The same again, also under another name, is the same image and boots nothing.
    let digest = made.digest();
    let other = Made::named(&banger, "t-docker2");
    let again = build(&banger, "t-docker2", &flags);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!(other.digest(), digest);
    assert!(
        !again.stderr.contains("starting the builder"),
        "{}",
        again.stderr
    );
    // What is before a change is not done again.
    let changed = format!("changed in {here}");
    write(dir.path(), "src/main.c", &changed);
    let again = build(&banger, "t-docker", &flags);
    assert_eq!(again.code, 0, "{}", again.stderr);
    let said = log(&banger, "t-docker");
    assert!(
        said.contains("COPY --from=tools /out/deep ./deep (cached)"),
        "{said}"
    );
    assert!(!said.contains("COPY src . (cached)"), "{said}");
    assert_ne!(made.digest(), digest);
    assert_eq!(made.sh("cat /app/src/main.c"), changed);
    // A stage of its own.
    let tools = Made::named(&banger, "t-docker3");
    let built = build(&banger, "t-docker3", &[here, "--target", "tools"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert_eq!(tools.sh("ls /out"), "deep\ntool");
    assert_no_builder(&banger);
}

#[test]
fn a_step_that_fails_leaves_its_log_and_no_image() {
    let banger = Banger::from_env();
    let dir = tempfile::tempdir().unwrap();
    let made = Made::named(&banger, "t-fails");
    let here = dir.path().to_str().unwrap();
    write(
        dir.path(),
        "Dockerfile",
        "FROM debian-minimal\nRUN echo fine >/fine\n\nRUN echo why it failed >&2; exit 7\nRUN echo never\n",
    );
    let failed = build(&banger, "t-fails", &[here]);
    let log_path = banger.state_dir().join("logs/build-t-fails.log");
    let texts = [
        "line 4",
        "exited with 7",
        "why it failed",
        "--enter-on-failure",
        log_path.to_str().unwrap(),
    ];
    failed.assert_failed("a failed step", 1, &texts);
    assert!(log(&banger, "t-fails").contains("why it failed"));
    assert!(!made.exists());
    assert_no_builder(&banger);
    // What is wrong in the file is told before anything is done.
    for (text, line, said) in [
        (
            "FROM debian-minimal\nRNU x\n",
            "line 2",
            "did you mean `RUN`?",
        ),
        (
            "FROM debian-minimal\nCOPY --from=5 a b\n",
            "line 2",
            "no stage",
        ),
        (
            "FROM debian-minimal\nCOPY missing /x\n",
            "line 2",
            "missing",
        ),
        (
            "FROM debian-minimall\nRUN x\n",
            "debian-minimall",
            "did you mean",
        ),
        ("", "FROM", ""),
    ] {
        write(dir.path(), "Dockerfile", text);
        let failed = build(&banger, "t-fails", &[here]);
        assert_ne!(failed.code, 0, "{text}");
        assert!(
            failed.stderr.contains(line) && failed.stderr.contains(said),
            "{}",
            failed.stderr
        );
    }
    // A link that leads out of the context is not followed.
    symlink("/etc/shadow", dir.path().join("out")).unwrap();
    write(
        dir.path(),
        "Dockerfile",
        "FROM debian-minimal\nCOPY out /x\n",
    );
    build(&banger, "t-fails", &[here]).assert_failed("a link", 2, &["symbolic link"]);
    let usage = build(
        &banger,
        "debian-minimal",
        &["--from", "debian-bookworm", "--packages", "jq"],
    );
    usage.assert_failed("banger's own name", 5, &["banger's own image"]);
    let usage = build(
        &banger,
        "t-fails",
        &["--from", "debian-minimal", "--with", "dokcer"],
    );
    usage.assert_failed("an unknown tool", 2, &["did you mean `docker`"]);
    let none = build(
        &banger,
        "t-fails",
        &["--from", "debian-minimal", "--packages", "jq"],
    );
    none.assert_failed("no package manager", 1, &["no package manager"]);
    assert!(!made.exists());
    assert_no_builder(&banger);
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let banger = Banger::from_env();
    let dir = tempfile::tempdir().unwrap();
    let made = Made::named(&banger, "t-interrupted");
    let folders = || {
        fs::read_dir(banger.state_dir().join("vms"))
            .unwrap()
            .count()
    };
    let before = folders();
    let child = endless(&banger, dir.path(), "t-interrupted");
    // Its name is taken meanwhile.
    let second = build(&banger, "t-interrupted", &[dir.path().to_str().unwrap()]);
    second.assert_failed("a second build", 5, &["is being built"]);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(!ended.status.success());
    assert!(!made.exists());
    assert_no_builder(&banger);
    assert_eq!(folders(), before, "folders of VMs");
}

#[test]
fn a_builder_whose_daemon_died_is_gone_with_the_next_one() {
    let banger = Banger::from_env();
    let dir = tempfile::tempdir().unwrap();
    let made = Made::named(&banger, "t-died");
    let child = endless(&banger, dir.path(), "t-died");
    banger.kill_daemon();
    let ended: Finished = child.wait_with_output().unwrap().into();
    assert_ne!(ended.code, 0, "{}", ended.stderr);
    until("the builder is gone", Duration::from_secs(60), || {
        !banger.json(&["vm", "list"])["vms"]
            .to_string()
            .contains("image-build-")
    });
    assert!(!made.exists());
    let taken = banger.run(&["vm", "create", "--name", "image-build-abc", "--no-start"]);
    taken.assert_failed("a builder's name", 2, &["builders"]);
}

#[test]
fn somebody_enters_a_builder_and_says_what_becomes_of_it() {
    const PATIENCE: Duration = Duration::from_secs(120);
    let banger = Banger::from_env();
    let dir = tempfile::tempdir().unwrap();
    let made = Made::named(&banger, "t-entered");
    let here = dir.path().to_str().unwrap();
    write(
        dir.path(),
        "Dockerfile",
        "FROM debian-minimal\nRUN echo the reason; exit 3\n",
    );
    let entered = |rest: &[&str]| {
        let base = ["image", "build", "t-entered"];
        let all: Vec<&str> = base.iter().chain(rest).copied().collect();
        Terminal::start(&banger.command(&all), 24, 200)
    };
    let mut terminal = entered(&[here, "--enter-on-failure"]);
    terminal.expect("a shell in image-build-", PATIENCE);
    terminal.expect("it exited with 3: the reason", PATIENCE);
    terminal.type_in("echo in-$((40 + 2)); exit\r");
    terminal.expect("in-42", PATIENCE);
    terminal.expect("could not be built", PATIENCE);
    assert_eq!(terminal.wait(), 1);
    assert!(!made.exists());

    let flags = ["--from", "debian-minimal", "--interactive"];
    build(&banger, "t-entered", &flags).assert_failed("no terminal", 2, &["terminal"]);
    let mut terminal = entered(&flags);
    terminal.expect("when you leave", PATIENCE);
    terminal.type_in("echo mine >/etc/mine; false; exit\r");
    terminal.expect("Keep what is there? [y/N]", PATIENCE);
    terminal.type_in("y\r");
    terminal.expect("vm run --image t-entered", PATIENCE);
    assert_eq!(terminal.wait(), 0);
    assert_eq!(made.sh("cat /etc/mine"), "mine");
    assert_no_builder(&banger);
}

/// A package that says hello, in a repository that is a folder.
fn repository(dir: &Path) -> bool {
    let tree = dir.join("tree");
    write(
        &tree,
        "DEBIAN/control",
        "Package: banger-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: a test <test@example.org>\nDescription: says hello\n",
    );
    let program = write(&tree, "usr/bin/banger-hello", "#!/bin/sh\necho hello\n");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    let deb = dir.join("repo/banger-hello.deb");
    fs::create_dir_all(deb.parent().unwrap()).unwrap();
    let mut command = Command::new("dpkg-deb");
    let made = command
        .args(["--root-owner-group", "--build"])
        .arg(&tree)
        .arg(&deb)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return false;
    }
    let sum = Command::new("sha256sum").arg(&deb).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap();
    let size = fs::metadata(&deb).unwrap().len();
    let index = format!(
        "Package: banger-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: a test <test@example.org>\nFilename: ./banger-hello.deb\nSize: {size}\nSHA256: {}\nDescription: says hello\n",
        sum.split_whitespace().next().unwrap()
    );
    write(dir, "repo/Packages", &index);
    true
}

#[test]
fn packages_come_from_the_images_own_repositories() {
    let banger = Banger::from_env();
    let dir = tempfile::tempdir().unwrap();
    assert!(repository(dir.path()), "dpkg-deb makes a package");
    let base = Made::named(&banger, "t-repository");
    let made = Made::named(&banger, "t-packages");
    write(
        dir.path(),
        "Dockerfile",
        "FROM debian-bookworm\nCOPY repo /srv/repo\nRUN rm -rf /etc/apt/sources.list /etc/apt/sources.list.d && echo 'deb [trusted=yes] file:/srv/repo ./' >/etc/apt/sources.list\n",
    );
    let built = build(&banger, base.1, &[dir.path().to_str().unwrap()]);
    assert_eq!(built.code, 0, "{}\n{}", built.stderr, log(&banger, base.1));
    let built = build(
        &banger,
        made.1,
        &["--from", base.1, "--packages", "banger-hello"],
    );
    assert_eq!(built.code, 0, "{}\n{}", built.stderr, log(&banger, made.1));
    let seen = made.sh("banger-hello; ls /var/lib/apt/lists | grep -c Packages; true");
    assert_eq!(seen, "hello\n0");
    assert_no_builder(&banger);
}
