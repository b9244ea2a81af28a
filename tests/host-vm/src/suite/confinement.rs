//! What a VMM could reach that its guest has taken over: tried from inside its view, as its user, in its
//! control group.

use anyhow::{Context, Result, ensure};

use super::guest::Guest;
use super::{Length, Test, Vmm};
use crate::host::{Host, quote};

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    let mut tests = Test::each_beside(
        "confinement/a-vmm-reaches-its-own-and-nothing-else",
        Length::Smoke,
        reach,
    );
    tests.extend(Test::each_beside(
        "confinement/units-are-exposed-as-little-as-promised",
        Length::Whole,
        exposure,
    ));
    tests
}

/// Opens or connects to every path, and prints those where it went well.
const TRY: &str = r#"
import os, socket, sys
for path in sys.argv[1:]:
    done = []
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDONLY | os.O_DIRECTORY):
        try: os.close(os.open(path, flags)); done.append("opened")
        except OSError: pass
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        try:
            with socket.socket(socket.AF_UNIX, kind) as s: s.connect(path); done.append("connected")
        except OSError: pass
    if done: print(path)
"#;

/// A VM's process, folder and user, as the host has them.
struct Seen {
    pid: String,
    uid: String,
    unit: String,
    run: String,
}

impl Seen {
    fn of(host: &Host, guest: &Guest<'_>) -> Result<Self> {
        let id = guest.field("id")?;
        let unit = format!("banger-vm-{id}.service");
        let pid = guest.field("vmm_pid")?;
        let uid = host.root(&format!("stat -c %u /proc/{pid}"))?;
        let group = host.root(&format!("cat /proc/{pid}/cgroup"))?;
        ensure!(
            group.ends_with(&format!("/banger.slice/{unit}")),
            "the VMM is in {group}"
        );
        Ok(Self {
            pid,
            uid,
            unit,
            run: format!("/var/lib/banger/vms/{id}/run"),
        })
    }

    /// Which of the paths open, or take a connection, from where the VMM is.
    fn tries(&self, host: &Host, paths: &[&str]) -> Result<Vec<String>> {
        let Self { pid, uid, unit, .. } = self;
        let mut words = vec!["/usr/bin/python3", "-c", TRY];
        words.extend(paths);
        let line = format!(
            "echo $$ >/sys/fs/cgroup/banger.slice/{unit}/cgroup.procs && exec nsenter --target {pid} --mount --ipc \
             --root --wd -- /usr/bin/setpriv --reuid {uid} --regid {uid} --groups $(stat -c %g /dev/kvm) \
             --bounding-set=-all --no-new-privs -- {}",
            quote(&words)
        );
        let said = host.root(&quote(&["bash", "-c", &line]))?;
        Ok(said.lines().map(str::to_owned).collect())
    }
}

fn reach(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    let other = Guest::minimal(host, vmm, &[])?;
    let (seen, others) = (Seen::of(host, &guest)?, Seen::of(host, &other)?);
    ensure!(
        seen.uid != others.uid,
        "two VMs share the user {}",
        seen.uid
    );

    // The probe itself works: what is the VM's own opens.
    let own = [
        "/vm/work",
        "/vm/config",
        "/vm/console",
        "/dev/kvm",
        "/dev/net/tun",
    ];
    let opened = seen.tries(host, &own)?;
    ensure!(opened == own, "of its own only {opened:?} open");

    let disk = host.root("stat -c '0x%t 0x%T' $(findmnt -no SOURCE /)")?;
    let node = format!("{}/disk", seen.run);
    host.root(&format!(
        "mknod {node} b $(printf '%d %d' {disk}) && chown {0} {node} && chmod 600 {node}",
        seen.uid
    ))?;
    let key = "/home/dev/.config/banger/ssh/id_ed25519";
    let theirs = format!("{}/work", others.run);
    let vsock = format!("{}/v", others.run);
    let foreign = [
        "/run/banger-root/installed/helper.sock",
        "/run/banger/bangerd.sock",
        "/run/banger-build.sock",
        "/run/systemd/private",
        "/run/dbus/system_bus_socket",
        "/var/lib/banger/banger.db",
        &theirs,
        &vsock,
        key,
        "/home/dev",
        "/root",
        "/etc/passwd",
        "/etc/banger/root.toml",
        "/dev/mapper/control",
        "/dev/loop-control",
        "/proc/1/environ",
    ];
    for path in foreign {
        // A path that is nowhere proves nothing.
        host.root(&format!("test -e {path}"))
            .with_context(|| format!("{path} is not on this host"))?;
    }
    let beyond = format!("/proc/{}/root/vm/work", others.pid);
    let tried: Vec<&str> = foreign
        .into_iter()
        .chain([beyond.as_str(), "/vm/disk"])
        .collect();
    let opened = seen.tries(host, &tried)?;
    ensure!(opened.is_empty(), "a VMM can reach {opened:?}");

    let status = host.root(&format!("cat /proc/{}/status", seen.pid))?;
    for wanted in [
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        ensure!(
            status.contains(wanted),
            "the VMM's status lacks {wanted}: {status}"
        );
    }
    Ok(())
}

/// The promised figures, on the units as they run.
fn exposure(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    let seen = Seen::of(host, &guest)?;
    let limits = [
        (seen.unit.as_str(), 15),
        ("bangerd.service", 20),
        ("bangerd-root.service", 46),
    ];
    for (unit, limit) in limits {
        let line =
            format!("systemd-analyze security --no-pager --threshold={limit} {unit} | tail -n 1");
        host.root(&format!("set -o pipefail; {line}"))
            .with_context(|| format!("{unit} is exposed more than {limit} tenths"))?;
    }
    Ok(())
}
