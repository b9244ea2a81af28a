//! What happens while no daemon looks, and what the next one makes of it.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use super::guest::{Guest, PATIENCE};
use super::{Length, Test, Vmm};
use crate::host::{Host, User};
use crate::wait;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    Test::pair(
        "absence/ends-are-told-apart-by-the-next-daemon",
        Length::Whole,
        ends,
    )
}

/// Lets the guest do something to itself a moment after the daemon has gone; comes back when its VMM has
/// ended and the daemon is there again.
fn end_unseen(host: &Host, guest: &Guest<'_>, deed: &str) -> Result<()> {
    let pid = guest.field("vmm_pid")?;
    // Told before the daemon goes, done when the file says so: the agent's connection needs no daemon.
    let line = format!("banger vm exec {} -- sh -c 'read go; {deed}'", guest.name);
    let mut waiting = host
        .command(&line, PATIENCE)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    wait::until("the guest waits for the word", PATIENCE, || {
        // Written so that the one who looks does not find itself.
        let asked = guest.exec(&["sh", "-c", "grep -l 'read [g]o' /proc/[0-9]*/cmdline"])?;
        Ok((!asked.stdout.trim().is_empty()).then_some(()))
    })?;
    host.once("the daemon goes", || {
        host.root("systemctl kill --kill-whom=main --signal=KILL bangerd.service; systemctl stop bangerd.service")
            .map(drop)
    })?;
    let mut word = waiting.stdin.take().context("piped")?;
    word.write_all(b"go\n")?;
    let gone = format!("test ! -e /proc/{pid} || grep -q ') Z ' /proc/{pid}/stat");
    wait::until("the VMM has ended", PATIENCE, || {
        let asked = host.run(User::Root, &gone)?;
        Ok((asked.code == 0).then_some(()))
    })?;
    host.once("the next daemon comes", || {
        host.root("systemctl start bangerd.service").map(drop)
    })?;
    // Its guest is gone: how it ends is nobody's business.
    drop(word);
    let _ = waiting.wait();
    Ok(())
}

fn ends(host: &Host, vmm: Vmm) -> Result<()> {
    let guest = Guest::minimal(host, vmm, &[])?;
    let first = guest.boot_id()?;
    end_unseen(host, &guest, "reboot")?;
    guest.wait_for_another_boot(&first)?;

    end_unseen(host, &guest, "poweroff")?;
    guest.wait_for_phase("stopped")?;

    guest.vm("start")?;
    let panic = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger";
    end_unseen(host, &guest, panic)?;
    guest.wait_for_phase("failed")?;
    ensure!(
        guest.show()?["last_error"].is_object(),
        "nothing says why: {}",
        guest.show()?
    );
    guest.vm("start")?;
    ensure!(guest.sh("echo back")? == "back", "it does not answer");
    Ok(())
}
