//! What a VM is asked while it runs: figures, ports, logs, several at once, synchronised files.

use anyhow::{Context as _, Result, ensure};

use super::guest::{Guest, PATIENCE};
use super::{Length, Test, Vmm};
use crate::host::{Host, User};
use crate::wait;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    let mut tests = Test::each_beside(
        "verbs/figures-ports-logs-and-several-at-once",
        Length::Whole,
        asked,
    );
    tests.extend(Test::best(
        "verbs/settings-files-and-taps-of-the-owners-configuration",
        Length::Whole,
        configured,
    ));
    tests.extend(Test::best(
        "verbs/a-clock-that-jumps-ends-no-vm",
        Length::Whole,
        clock,
    ));
    tests
}

fn asked(host: &Host, vmm: Vmm) -> Result<()> {
    let one = Guest::minimal(host, vmm, &[])?;
    let other = Guest::minimal(host, vmm, &[])?;
    one.sh("mkdir /www && echo page > /www/page && httpd -p 8080 -h /www && httpd -p 127.0.0.1:8081 -h /www")?;
    wait::until("the ports are listed", PATIENCE, || {
        let list = host.json(&["vm", "ports", &one.name])?;
        let ports = list["ports"].as_array().cloned().unwrap_or_default();
        let row = |port: u16| ports.iter().find(|row| row["port"] == port);
        let (Some(open), Some(inside)) = (row(8080), row(8081)) else {
            return Ok(None);
        };
        let url = format!("http://{}.vm:8080/", one.name);
        ensure!(
            inside["address"].is_null(),
            "loopback's port has an address: {inside}"
        );
        Ok((open["url"] == url && open["process"].is_string()).then_some(()))
    })?;
    one.sh("i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done")?;
    wait::until("the figures are those of two VMs", PATIENCE, || {
        let stats = host.json(&["vm", "stats", &one.name, &other.name])?;
        let vms = stats["vms"].as_array().cloned().unwrap_or_default();
        let told = |part: &str, what: &str| {
            vms.iter()
                .all(|vm| vm[part][what].as_f64().is_some_and(|value| value > 0.0))
        };
        let all = told("host", "cpu_seconds") && told("guest", "cpu_seconds");
        Ok((vms.len() == 2 && all).then_some(()))
    })?;
    let metrics =
        host.dev("curl -sS --unix-socket /run/banger/bangerd.sock http://banger/metrics")?;
    ensure!(
        metrics.contains(&format!("vm=\"{}\"", one.name)),
        "the metrics do not know {}: {metrics}",
        one.name
    );
    for vm in [&one, &other] {
        let console = host.dev(&format!("banger vm logs {}", vm.name))?;
        let boots = console.matches("banger: agent listening").count();
        ensure!(boots == 1, "{boots} boots in the console's log: {console}");
    }
    // Several at once, and each result told.
    let names = [one.name.as_str(), other.name.as_str()];
    let stopped = host.banger(&[&["vm", "stop"], &names[..], &["no-such-vm"]].concat())?;
    ensure!(
        stopped.code == 4 && stopped.stdout.contains("no-such-vm: there is no VM"),
        "{}",
        stopped.describe()
    );
    for vm in [&one, &other] {
        ensure!(vm.field("phase")? == "stopped", "{}", vm.show()?);
    }
    host.banger(&[&["vm", "start"], &names[..]].concat())?
        .ok()?;
    ensure!(
        one.sh("hostname")? == one.name && other.sh("hostname")? == other.name,
        "names"
    );
    Ok(())
}

/// Runs with lines in the owner's configuration, which are taken away after.
fn with_config(host: &Host, lines: &str, test: impl FnOnce() -> Result<()>) -> Result<()> {
    host.dev(&format!(
        "mkdir -p ~/.config/banger && cat > ~/.config/banger/config.toml <<'END'\n{lines}\nEND"
    ))?;
    host.root("systemctl restart bangerd")?;
    let result = test();
    host.dev("rm ~/.config/banger/config.toml")?;
    host.root("systemctl restart bangerd")?;
    result
}

fn configured(host: &Host, vmm: Vmm) -> Result<()> {
    host.dev(
        "mkdir -p ~/dots/inner && echo mine > ~/dots/inner/rc && echo '[user]' > ~/dots/gitconfig",
    )?;
    let lines = "tap_pool_size = 2\n[[file_sync]]\nhost = \"~/dots/gitconfig\"\nguest = \"~/.gitconfig\"\nmode = \"0640\"\n\
                 [[file_sync]]\nhost = \"~/dots/inner\"\nguest = \"~/.dots\"";
    with_config(host, lines, || {
        let guest = Guest::minimal(host, vmm, &[])?;
        let has = guest.sh(
            "cat /root/.gitconfig /root/.dots/rc; stat -c %a /root/.gitconfig /root/.dots/rc",
        )?;
        ensure!(has == "[user]\nmine\n640\n600", "the guest has {has}");
        host.dev("echo new >> ~/dots/inner/rc")?;
        guest.vm("restart")?;
        ensure!(
            guest.sh("cat /root/.dots/rc")? == "mine\nnew",
            "the change did not come"
        );
        // Taps beside the guest's own, ready for the next.
        let ready = "ip -o link | grep -c ' banger0-t' || true";
        wait::until("taps are kept ready", PATIENCE, || {
            Ok((host.root(ready)? == "2").then_some(()))
        })
    })?;
    let ready = host.root("ip -o link | grep -c ' banger0-t' || true")?;
    ensure!(
        ready == "0",
        "{ready} taps are kept although the pool is off"
    );
    Ok(())
}

/// A day ahead and back: nobody is stopped, nothing is lost, and the guest is asked as before.
fn clock(host: &Host, vmm: Vmm) -> Result<()> {
    with_config(host, "auto_stop_stale_after = \"6h\"", || {
        let guest = Guest::minimal(host, vmm, &[])?;
        let boot = guest.boot_id()?;
        host.root("systemctl stop systemd-timesyncd 2>/dev/null; true")?;
        for jump in ["+1 day", "-2 days", "+1 day"] {
            host.root(&format!("date -s \"$(date -d '{jump}')\" >/dev/null"))?;
            let now = guest.boot_id().with_context(|| format!("after {jump}"))?;
            ensure!(now == boot, "after {jump} it is another boot");
            ensure!(guest.field("phase")? == "running", "{}", guest.show()?);
            host.banger(&["vm", "list"])?.ok()?;
        }
        let restarted = host.run(User::Dev, &format!("banger vm restart {}", guest.name))?;
        restarted.ok().map(drop)
    })
}
