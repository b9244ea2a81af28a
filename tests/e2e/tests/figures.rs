//! `vm stats` and `/metrics` of real guests, environments of commands, the manual and the benchmark.

use std::fs;
use std::process::Command;

use banger_e2e::{Banger, Elsewhere, SMALL};
use serde_json::Value;

#[test]
fn stats_are_of_host_and_guest_and_grow_with_what_is_done() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--memory", "512M", "--disk-size", "1G"]);
    let idle = &banger.json(&["vm", "stats", &vm.name])["vms"][0];
    assert_eq!(idle["phase"], "running");
    vm.sh("timeout 3 sh -c 'while :; do :; done' || true; dd if=/dev/zero of=/root/fill bs=1M count=64 conv=fsync 2>&1");
    let busy = &banger.json(&["vm", "stats", &vm.name])["vms"][0];
    let number = |value: &Value| {
        value
            .as_f64()
            .unwrap_or_else(|| panic!("{value} in {busy}"))
    };
    assert!(number(&busy["host"]["cpu_seconds"]) > number(&idle["host"]["cpu_seconds"]) + 1.0);
    assert!(number(&busy["guest"]["cpu_seconds"]) > number(&idle["guest"]["cpu_seconds"]) + 1.0);
    assert!(number(&busy["host"]["memory"]) > 100e6, "{busy}");
    let total = number(&busy["guest"]["memory_total"]);
    assert!((300e6..512.0 * 1048576.0).contains(&total), "{busy}");
    assert!(number(&busy["guest"]["memory_used"]) < total);
    assert!(number(&busy["host"]["uptime_seconds"]) > 3.0);
    assert!(number(&busy["guest"]["uptime_seconds"]) > 3.0);
    let disk = |stats: &Value, name: &str| {
        let disks = stats["disks"].as_array().cloned().unwrap_or_default();
        disks.into_iter().find(|disk| disk["disk"] == name).unwrap()
    };
    assert_eq!(disk(busy, "work")["virtual_bytes"], 1_u64 << 30);
    let grown =
        number(&disk(busy, "work")["real_bytes"]) - number(&disk(idle, "work")["real_bytes"]);
    assert!(grown > 60e6, "{busy}");
    assert!(number(&disk(busy, "root")["virtual_bytes"]) > 8e9, "{busy}");
    let paths: Vec<&Value> = busy["guest"]["file_systems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["path"])
        .collect();
    assert_eq!(paths, ["/", "/root"]);

    let socket = banger.ok(&["daemon", "socket"]);
    let scrape = Command::new("curl")
        .args([
            "-sS",
            "-i",
            "--unix-socket",
            socket.trim(),
            "http://banger/metrics",
        ])
        .output()
        .expect("curl starts");
    let page = String::from_utf8_lossy(&scrape.stdout).into_owned();
    assert!(
        page.contains("application/openmetrics-text; version=1.0.0"),
        "{page}"
    );
    assert!(
        page.contains(&format!("banger_vm_cpu_seconds_total{{vm=\"{}\"", vm.name)),
        "{page}"
    );
    assert!(page.trim_end().ends_with("# EOF"), "{page}");

    banger.ok(&["vm", "stop", &vm.name]);
    let stopped = &banger.json(&["vm", "stats", &vm.name])["vms"][0];
    assert_eq!(stopped["host"], Value::Null);
    assert_eq!(stopped["guest"], Value::Null);
    assert_eq!(disk(stopped, "work")["virtual_bytes"], 1_u64 << 30);
    assert!(banger.ok(&["vm", "stats"]).contains(&vm.name));
    let unknown = banger.run(&["vm", "stats", "no-such-vm"]);
    unknown.assert_failed("unknown", 4, &["there is no VM"]);
}

/// Neither the daemon's log nor its database has it.
fn assert_not_stored(banger: &Banger, secret: &str) {
    for place in ["bangerd.log", "banger.db", "banger.db-wal"] {
        let bytes = fs::read(banger.state_dir().join(place)).unwrap_or_default();
        let holds = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!holds, "{place} holds a secret");
    }
}

#[test]
fn a_secret_reaches_the_command_and_nothing_else() {
    let banger = Banger::from_env();
    let secret = format!("s3cret-{}", std::process::id());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    fs::write(
        &file,
        format!("# a comment\nFROM_FILE={secret}-file\nTOKEN\n"),
    )
    .unwrap();
    let vm = banger.vm(&["--wait", "reachable"]);
    let mut exec = banger.command(&["vm", "exec", &vm.name, "--env", "ALSO", "--env-file"]);
    exec.arg(&file)
        .args([
            "--",
            "sh",
            "-c",
            "echo $FROM_FILE $TOKEN $ALSO; ps axww -o args; sleep 0",
        ])
        .env("TOKEN", format!("{secret}-token"))
        .env("ALSO", format!("{secret}-also"));
    let output = exec.output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let (first, processes) = out.split_once('\n').unwrap();
    assert_eq!(first, format!("{secret}-file {secret}-token {secret}-also"));
    assert!(!processes.contains(&secret), "{processes}");

    let name = format!("env-{}", std::process::id());
    let mut run = banger.command(&[
        "vm",
        "run",
        "--name",
        &name,
        "--env",
        "ALSO",
        "--",
        "sh",
        "-c",
        "echo $ALSO",
    ]);
    let output = run.env("ALSO", &secret).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), secret);
    let shown = banger.json(&["vm", "show", &name]).to_string();
    assert!(!shown.contains(&secret), "{shown}");
    assert_not_stored(&banger, &secret);
    banger.ok(&["vm", "delete", &name]);

    for (args, told) in [
        (&["--env", "=x"][..], "no name before"),
        (&["--env", "UNSET_HERE"], "is not set here"),
        (&["--env-file", "/no/such/file"], "cannot be read"),
    ] {
        let base = ["vm", "exec", &vm.name];
        let all: Vec<&str> = base
            .iter()
            .chain(args)
            .copied()
            .chain(["--", "true"])
            .collect();
        banger
            .run(&all)
            .assert_failed("bad variables", 125, &[told]);
    }
}

#[test]
fn a_vms_environment_is_every_commands_and_stands_nowhere_on_the_host() {
    let banger = Banger::from_env();
    let secret = format!("vm-s3cret-{}", std::process::id());
    let name = format!("of-vm-{}", std::process::id());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    fs::write(&file, format!("FILED={secret}-filed\nTOKEN=replaced\n")).unwrap();
    let mut create = banger.command(&["vm", "create", "--name", &name, "--env", "TOKEN"]);
    create.args(SMALL).arg("--env-file").arg(&file);
    let created = create.env("TOKEN", &secret).output().unwrap();
    let vm = banger.adopt(&name);
    let said = String::from_utf8_lossy(&created.stderr);
    assert!(
        created.status.success() && !said.contains(&secret),
        "{said}"
    );

    let both = format!("{secret} {secret}-filed");
    assert_eq!(vm.sh("echo $TOKEN $FILED"), both);
    assert_eq!(
        vm.sh("stat -c '%a %U' /var/lib/banger/environment"),
        "600 root"
    );
    let acp = ["vm", "acp", &name, "--", "sh", "-c", "echo $TOKEN $FILED"];
    assert_eq!(banger.ok(&acp).trim(), both);
    let session = ["vm", "session", "start", &name, "--name", "own"];
    let script = ["--env", "TOKEN=own", "--", "sh", "-c", "echo $TOKEN $FILED"];
    banger.ok(&session.iter().chain(&script).copied().collect::<Vec<_>>());
    let log = ["vm", "session", "logs", &name, "own", "--follow"];
    assert_eq!(banger.ok(&log).trim(), format!("own {secret}-filed"));

    banger.ok(&["vm", "stop", &name]);
    banger.kill_daemon();
    banger.ok(&["vm", "start", &name, "--wait", "reachable"]);
    assert_eq!(vm.sh("echo $TOKEN $FILED"), both);
    let own = ["vm", "exec", &name, "--env", "TOKEN=own", "--"];
    let own = own.iter().chain(&["sh", "-c", "echo $TOKEN"]);
    assert_eq!(banger.ok(&own.copied().collect::<Vec<_>>()).trim(), "own");

    let shown = vm.show().to_string();
    assert!(!shown.contains(&secret), "{shown}");
    assert_not_stored(&banger, &secret);
    let no_start = banger.run(&["vm", "create", "--no-start", "--env", "A=b"]);
    no_start.assert_failed("nobody to keep it", 2, &["--no-start", "vm exec"]);
}

#[test]
fn a_benchmark_counts_from_the_start_of_each_create_and_leaves_nothing() {
    let banger = Banger::from_env();
    let bench = banger.json(&["bench", "create", "--runs", "1"]);
    let run = &bench["runs"][0];
    let create = run["create_ms"].as_u64().unwrap();
    assert!(
        create > 0 && run["ssh_ready_ms"].as_u64().unwrap() > create,
        "{bench}"
    );
    assert_eq!(bench["median"], *run);
    let left = banger.json(&["vm", "list"])["vms"].as_array().map(Vec::len);
    assert_eq!(left, Some(0));
    let unknown = banger.run(&["bench", "create", "--image", "no-such-image"]);
    unknown.assert_failed("unknown image", 4, &["no-such-image"]);
}

#[test]
fn the_manual_is_written_without_a_daemon() {
    let elsewhere = Elsewhere::new();
    let folder = elsewhere.path("man");
    let finished = elsewhere.run(&["man", folder.to_str().unwrap()]);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert!(folder.join("banger-vm-run.1").is_file());
    assert!(!elsewhere.path("run/banger/bangerd.sock").exists());
}

#[test]
fn config_show_names_origins_and_a_wrong_key_its_line() {
    let elsewhere = Elsewhere::new();
    let file = elsewhere.path("config/banger/config.toml");
    fs::write(
        &file,
        "# mine\ncidr = \"10.77.0.0/24\"\nbridge_name = \"bgtest0\"\n[vm_defaults]\nvcpu = 1\n",
    )
    .unwrap();
    let mut show = elsewhere.command(&["config", "show", "-o", "json"]);
    let output = show.env("BANGER_LOG_LEVEL", "debug").output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |key: &str| {
        let entries = view["entries"].as_array().cloned().unwrap_or_default();
        entries
            .into_iter()
            .find(|entry| entry["key"] == key)
            .unwrap()
    };
    assert_eq!(
        (
            &of("vm_defaults.vcpu")["line"],
            &of("vm_defaults.vcpu")["value"]
        ),
        (&5.into(), &"1".into())
    );
    assert_eq!(of("cidr")["file"], file.to_str().unwrap());
    assert_eq!(of("log_level")["variable"], "BANGER_LOG_LEVEL");
    assert_eq!(of("storage")["origin"], "default");
    assert_eq!(view["changed"], false);

    fs::write(&file, "\n\n[vm_defaults]\nvcpus = 1\n").unwrap();
    let now = elsewhere.run(&["config", "show"]);
    assert!(now.stderr.contains("has changed"), "{}", now.stderr);
    let _ = elsewhere.run(&["daemon", "stop"]);
    let wrong = elsewhere.run(&["config", "show"]);
    wrong.assert_failed("a wrong key", 3, &["line 4", "did you mean `vcpu`"]);
}
