//! What a guest of the default image does: commands, files, life and death.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use banger_e2e::{Banger, SMALL, until};

const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn the_commands_own_status_is_the_exit_code() {
    let banger = Banger::from_env();
    let finished = banger.run(&[
        "vm",
        "run",
        "--rm",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!(finished.code, 7, "{}", finished.stderr);
    assert_eq!(finished.stdout, "out\n");
    assert!(finished.stderr.contains("err"), "{}", finished.stderr);
    let killed = banger.run(&["vm", "run", "--rm", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 128 + 9, "{}", killed.stderr);
    assert_eq!(
        banger.json(&["vm", "list"])["vms"].as_array().map(Vec::len),
        Some(0)
    );
}

#[test]
fn a_guest_has_its_identity_and_its_files_survive_stop_and_start() {
    let banger = Banger::from_env();
    let vm = banger.vm(&[]);
    assert_eq!(vm.sh("hostname"), vm.name);
    assert_eq!(vm.sh("cat /etc/hostname"), vm.name);
    assert_eq!(vm.sh("id -u"), "0");
    assert_eq!(vm.sh("ulimit -n; umask; pwd"), "1024\n0022\n/root");
    assert_eq!(
        vm.sh("test -c /dev/ptmx && test -d /dev/pts && test -e /dev/fd/0 && echo ok"),
        "ok"
    );
    assert_eq!(vm.sh("wc -c < /etc/machine-id"), "33");
    let address = vm.show()["address"].as_str().unwrap().to_owned();
    assert!(vm.sh("ip -4 -o addr show scope global").contains(&address));

    let echoed = banger.run_with_stdin(&["vm", "exec", &vm.name, "--", "cat"], b"hi\n");
    assert_eq!(
        (echoed.code, echoed.stdout.as_str()),
        (0, "hi\n"),
        "{}",
        echoed.stderr
    );

    vm.sh("echo in-root > /kept; echo at-home > /root/kept; sync");
    let machine_id = vm.sh("cat /etc/machine-id");
    banger.ok(&["vm", "stop", &vm.name]);
    assert_eq!(vm.phase(), "stopped");
    banger.ok(&["vm", "start", &vm.name]);
    assert_eq!(vm.sh("cat /kept /root/kept"), "in-root\nat-home");
    assert_eq!(vm.sh("cat /etc/machine-id"), machine_id);
}

#[test]
fn poweroff_stops_a_vm_reboot_boots_it_again_and_a_panic_is_a_failure() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "reachable"]);
    let first_boot = vm.sh("cat /proc/sys/kernel/random/boot_id");
    vm.sh("echo 1 > /root/marker");
    let _ = vm.exec(&["systemctl", "reboot"]);
    until("the guest has booted again", PATIENCE, || {
        let asked = vm.exec(&["cat", "/proc/sys/kernel/random/boot_id"]);
        asked.code == 0 && asked.stdout.trim() != first_boot
    });
    assert_eq!(vm.sh("cat /root/marker"), "1");

    let _ = vm.exec(&["systemctl", "poweroff"]);
    until("the VM is stopped", PATIENCE, || vm.phase() == "stopped");

    banger.ok(&["vm", "start", &vm.name]);
    let _ = vm.exec(&[
        "sh",
        "-c",
        "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger",
    ]);
    until("the panic is noticed", PATIENCE, || vm.phase() == "failed");
    assert_ne!(vm.show()["last_error"], serde_json::Value::Null);
}

#[test]
fn ssh_by_name_asks_nothing() {
    let banger = Banger::from_env();
    let vm = banger.vm(&[]);
    let finished = banger.run(&[
        "vm",
        "ssh",
        &vm.name,
        "--",
        "echo $SSH_CONNECTION; hostname; exit 3",
    ]);
    assert_eq!(finished.code, 3, "{}", finished.stderr);
    assert!(finished.stdout.contains(&vm.name), "{}", finished.stdout);
    assert!(
        !finished.stderr.contains("authenticity"),
        "{}",
        finished.stderr
    );
    // ssh's own code for a failure, but it did not fail.
    let finished = banger.run(&["vm", "ssh", &vm.name, "--", "exit 255"]);
    assert_eq!((finished.code, finished.stderr.as_str()), (255, ""));
    // Where sshd is not there, another one is; the program that the guest has by then is used again.
    vm.sh("systemctl stop ssh.socket ssh.service 2>/dev/null; ! systemctl is-active ssh.service");
    for _ in 0..2 {
        let line = "echo $SSH_CONNECTION; hostname; exit 3";
        let finished = banger.run(&["vm", "ssh", &vm.name, "--", line]);
        assert_eq!(finished.code, 3, "{}", finished.stderr);
        let expected = format!("UNKNOWN 65535 UNKNOWN 65535\n{}\n", vm.name);
        assert_eq!(finished.stdout, expected);
        assert_eq!(finished.stderr, "");
    }
    let brought = vm.sh("ls /run/banger | grep -c banger-sshd-");
    assert_eq!(brought, "1");
}

#[test]
fn what_a_first_command_wrote_to_tmp_stays() {
    let banger = Banger::from_env();
    let name = format!("tmp-{}", std::process::id());
    let run = [
        "vm",
        "run",
        "--name",
        &name,
        "--",
        "sh",
        "-c",
        "echo early > /tmp/early",
    ];
    banger.ok(&run);
    banger.ok(&[
        "vm",
        "ssh",
        &name,
        "--",
        "systemctl is-active systemd-tmpfiles-setup.service || true",
    ]);
    assert_eq!(
        banger.ok(&["vm", "exec", &name, "--", "cat", "/tmp/early"]),
        "early\n"
    );
    banger.ok(&["vm", "delete", &name]);
}

#[test]
fn docker_runs_an_image_made_on_the_spot() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--memory", "2G"]);
    vm.sh("tar -C / -c bin lib lib64 usr/bin/env usr/bin/uname usr/bin/dash usr/lib/x86_64-linux-gnu/libc.so.6 \
           usr/lib64 usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 | docker import - local/tiny >/dev/null");
    let said = vm.sh("docker run --rm local/tiny /usr/bin/uname -s");
    assert_eq!(said.lines().last(), Some("Linux"));
    let compose = vm.sh("docker compose version");
    assert!(compose.contains("version"), "{compose}");
}

#[test]
fn a_first_command_that_needs_the_whole_system_works_or_is_told_why_not() {
    let banger = Banger::from_env();
    for command in [
        &["systemctl", "is-active", "multi-user.target"][..],
        &["docker", "version"],
    ] {
        let base = ["vm", "run", "--rm", "--"];
        let args: Vec<&str> = base.iter().chain(command).copied().collect();
        let finished = banger.run(&args);
        assert!(
            finished.code == 0 || finished.stderr.contains("the system was still booting"),
            "{command:?}: {finished:?}"
        );
        // Who waits for the system has it.
        let base = ["vm", "run", "--rm", "--wait", "ready", "--"];
        let args: Vec<&str> = base.iter().chain(command).copied().collect();
        let finished = banger.run(&args);
        assert!(
            finished.code == 0 || command[0] == "systemctl",
            "{command:?}: {finished:?}"
        );
    }
}

#[test]
fn a_boot_that_hangs_is_told_with_its_stage_and_what_the_console_said_last() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "reachable"]);
    // A service that never gets done, before the one that the image promises.
    vm.sh("cd /etc/systemd/system && mkdir ssh.service.requires && \
           printf '[Unit]\\nBefore=ssh.service\\nDefaultDependencies=no\\n\
                   [Service]\\nType=oneshot\\nExecStart=/bin/sleep infinity\\n' > stuck.service && \
           ln -s ../stuck.service ssh.service.requires/ && sync");
    banger.ok(&["vm", "stop", &vm.name]);
    let finished = banger.run(&["vm", "start", "--timeout", "15", &vm.name]);
    finished.assert_failed(
        "the command",
        1,
        &[
            "[boot_failed]",
            "stage `services` failed",
            "after 15s",
            "the console ends with:",
            "banger vm logs",
        ],
    );
    assert_eq!(vm.phase(), "failed");
    assert_eq!(vm.show()["last_error"]["code"], "boot_failed");
}

#[test]
fn a_guest_that_stops_altogether_is_told_and_can_be_deleted() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--no-start", "--image", "debian-minimal"]);
    let starting = banger.spawn(&["vm", "start", &vm.name]);
    let pid = || vm.show()["vmm_pid"].as_u64();
    until("the VMM is there", PATIENCE, || pid().is_some());
    let frozen = pid().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    rustix::process::kill_process(frozen.unwrap(), rustix::process::Signal::STOP).unwrap();
    let ended: banger_e2e::Finished = starting.wait_with_output().unwrap().into();
    ended.assert_failed("the command", 5, &["[vm_paused]", "by a signal"]);
    banger.ok(&["vm", "delete", &vm.name]);
    assert!(rustix::process::test_kill_process(frozen.unwrap()).is_err());
}

#[test]
fn a_guest_whose_agent_is_gone_is_restarted_by_force() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "ready"]);
    // By its name as a process; the session's connection ends with it.
    let killed = vm.exec(&["sh", "-c", "pkill -9 banger-agent; sleep 60"]);
    assert_eq!(killed.code, 125, "{}", killed.stderr);
    let restarted = banger.json(&["vm", "restart", "--grace", "3", &vm.name]);
    assert_eq!(restarted[0]["forced"], true, "{restarted}");
    assert_eq!(vm.sh("echo back"), "back");
}

#[test]
fn guest_and_host_clocks_agree() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "reachable"]);
    // One program that says the guest's time twice; the host's is taken when a line comes.
    let line = "cut -d' ' -f1 /proc/uptime; sleep 60; cut -d' ' -f1 /proc/uptime";
    let mut told = banger.spawn(&["vm", "exec", &vm.name, "--", "sh", "-c", line]);
    let mut lines = BufReader::new(told.stdout.take().unwrap()).lines();
    let mut both = || -> (f64, f64) {
        let guest = lines.next().unwrap().unwrap().parse().unwrap();
        let host = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        (guest, host.tv_sec as f64 + host.tv_nsec as f64 / 1e9)
    };
    let ((guest_start, host_start), (guest_end, host_end)) = (both(), both());
    assert!(told.wait().unwrap().success());
    let ratio = (guest_end - guest_start) / (host_end - host_start);
    assert!(
        (0.99..1.01).contains(&ratio),
        "guest time runs {ratio} times as fast as the host's"
    );
}

/// Years ahead and back to the beginning of time: deadlines, sessions and the end do not go by that clock.
#[test]
fn a_guest_whose_clock_jumps_goes_on() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let line = "while :; do echo tick; sleep 0.1; done";
    let session = ["vm", "session", "start", &vm.name, "--name", "ticks"];
    banger.ok(&[
        &session[..],
        &["--restart", "on-failure", "--", "sh", "-c", line],
    ]
    .concat());
    for time in ["@4000000000", "@0", "@1800000000"] {
        vm.sh(&format!("date -s {time}"));
        let ticks = || {
            banger
                .ok(&["vm", "session", "logs", &vm.name, "ticks"])
                .len()
        };
        let before = ticks();
        until("the session writes", PATIENCE, || ticks() > before);
        let stats = banger.json(&["vm", "stats", &vm.name]);
        let up = stats["vms"][0]["guest"]["uptime_seconds"].as_f64();
        assert!(
            up.is_some_and(|up| up > 0.0 && up < 10_000.0),
            "{time}: {stats}"
        );
        banger.ok(&["vm", "session", "list", &vm.name]);
    }
    banger.ok(&["vm", "stop", &vm.name]);
    assert_eq!(vm.show()["last_error"], serde_json::Value::Null);
    banger.ok(&["vm", "start", "--wait", "reachable", &vm.name]);
}
