//! Faults, each with what is promised for it: the error, an unharmed base image, no leak, and others that do
//! not notice.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::guest::{Guest, PATIENCE};
use super::{Length, Test, Vmm, leaks};
use crate::host::{Host, User, quote};
use crate::wait;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    [
        Test::best(
            "faults/a-vmm-that-ends-at-once-is-told",
            Length::Whole,
            at_once,
        ),
        Test::best(
            "faults/images-rebuilt-and-removed-under-vms",
            Length::Whole,
            images,
        ),
        Test::best(
            "faults/the-helper-killed-while-it-works",
            Length::Whole,
            helper,
        ),
        Test::best(
            "faults/a-disk-that-fills-ends-a-store-and-harms-no-base",
            Length::Whole,
            full,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Digests what is not zero in files: holes, of which there are gigabytes, are not read, and it does not matter
/// which zeros are written and which are holes.
const DIGEST: &str = r#"
import hashlib, os, sys
seen = hashlib.sha256()
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        at, size = 0, os.fstat(file.fileno()).st_size
        seen.update(b"%d;" % size)
        while at < size:
            try: at = os.lseek(file.fileno(), at, os.SEEK_DATA) & ~4095
            except OSError: break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            file.seek(at)
            while at < end:
                block = file.read(4096)
                if block.strip(b"\0"): seen.update(b"%d:" % at + block)
                at += 4096
print(seen.hexdigest())
"#;

/// A digest of the base image that new VMs get.
pub(super) fn base_digest(host: &Host) -> Result<String> {
    let all = "/var/lib/banger/images/debian-minimal";
    let now = host.root(&format!(
        "sed -n 's/^ *\"digest\": \"\\(.\\{{12\\}}\\).*/\\1/p' {all}/image.json"
    ))?;
    ensure!(now.len() == 12, "the image's digest is {now:?}");
    digest_of(host, &format!("{all}/{now}"))
}

/// The same for the image in that folder.
fn digest_of(host: &Host, folder: &str) -> Result<String> {
    host.root(&format!(
        "{} {folder}/*.ext4",
        quote(&["python3", "-c", DIGEST])
    ))
}

fn at_once(host: &Host, vmm: Vmm) -> Result<()> {
    let before = base_digest(host)?;
    let bystander = Guest::minimal(host, vmm, &[])?;
    let guest = Guest::minimal(host, vmm, &[])?;
    guest.sh("echo kept > /root/kept; sync")?;

    let program = host.root(&format!(
        "readlink /proc/{}/exe",
        bystander.field("vmm_pid")?
    ))?;
    guest.vm("stop")?;
    host.root(&format!(
        "mv {program} {program}.real; printf '#!/usr/bin/sh\\necho no luck >&2; exit 7\\n' > {program}; chmod 755 {program}"
    ))?;
    let said = host.banger(&["vm", "start", &guest.name]);
    host.root(&format!("mv {program}.real {program}"))?;
    let said = said?;
    ensure!(
        said.code == 3 && said.stderr.contains("no luck"),
        "the error does not tell what the VMM said: {}",
        said.describe()
    );
    ensure!(guest.field("phase")? == "failed", "{}", guest.show()?);
    ensure!(bystander.sh("echo here")? == "here", "the other felt it");
    guest.vm("start")?;
    ensure!(guest.sh("cat /root/kept")? == "kept", "its data is gone");
    drop((guest, bystander));
    leaks::nothing_runs(host)?;
    ensure!(base_digest(host)? == before, "the base image changed");
    Ok(())
}

fn images(host: &Host, vmm: Vmm) -> Result<()> {
    let before = base_digest(host)?;
    let guest = Guest::minimal(host, vmm, &[])?;
    guest.sh("echo kept > /kept; sync")?;
    let busybox = guest.sh("md5sum /bin/busybox")?;
    let drop_caches = "echo 3 > /proc/sys/vm/drop_caches";

    // Built again, offline: later VMs get the new one, this one stays what it is.
    let long = Duration::from_secs(900);
    for line in [
        "banger image build debian-minimal --force",
        "banger kernel import",
    ] {
        host.run_within(User::Dev, line, long)?.ok()?;
    }
    let check = |guest: &Guest<'_>| -> Result<()> {
        host.root(drop_caches)?;
        guest.sh(drop_caches)?;
        ensure!(
            guest.sh("md5sum /bin/busybox; cat /kept")? == format!("{busybox}\nkept"),
            "its root disk is another"
        );
        Ok(())
    };
    check(&guest)?;
    let digest = guest.field("image_digest")?;
    let folder = format!(
        "/var/lib/banger/images/debian-minimal/{}",
        &digest[..digest.len().min(12)]
    );
    host.root(&format!("test -e {folder}"))?;

    // Taken away behind banger's back: what runs goes on, what would start says what is missing.
    host.root(&format!("mv {folder} /var/lib/banger/away"))?;
    let gone = (|| {
        check(&guest)?;
        guest.vm("stop")?;
        let said = host.banger(&["vm", "start", &guest.name])?;
        ensure!(
            said.code != 0 && said.stderr.contains("debian-minimal"),
            "a missing image: {}",
            said.describe()
        );
        Ok(())
    })();
    host.root(&format!("mv /var/lib/banger/away {folder}"))?;
    gone?;
    guest.vm("start")?;
    check(&guest)?;
    drop(guest);
    leaks::nothing_runs(host)?;
    ensure!(
        digest_of(host, &folder)? == before,
        "the base image changed"
    );
    Ok(())
}

/// Killed at any moment, again and again, while a VM is made, stopped, started and deleted. Each command may
/// fail and then says why; said again, it succeeds, and nothing is left in the end.
fn helper(host: &Host, vmm: Vmm) -> Result<()> {
    let before = base_digest(host)?;
    let bystander = Guest::minimal(host, vmm, &[])?;
    let count =
        "(i=0; while :; do i=$((i+1)); echo $i > /run/count; sleep 1; done) >/dev/null 2>&1 &";
    bystander.sh(count)?;
    let mut killer = host
        .command(
            "sudo sh -c 'n=0; while [ ! -e /run/enough ]; do systemctl kill --signal=KILL bangerd-root.service && n=$((n+1)); \
             sleep 0.$((n % 7 + 3)); done; rm /run/enough; echo $n'",
            Duration::from_secs(600),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let name = format!("hard-{}", std::process::id());
    let rounds = (|| {
        let mut failures = vec![];
        for verb in ["create", "stop", "start", "stop", "start", "delete"] {
            let mut args = vec!["vm", verb];
            if verb == "create" {
                args.extend(["--image", "debian-minimal", "--memory", "256", "--vmm"]);
                args.extend([vmm.name(), "--timeout", "100", "--name"]);
            }
            args.push(&name);
            let said = host.banger(&args)?;
            if said.code != 0 {
                ensure!(
                    said.stderr.contains("error") && !said.stderr.contains("panicked"),
                    "{}",
                    said.describe()
                );
                failures.push(verb);
            }
        }
        Ok(failures)
    })();
    host.root("touch /run/enough")?;
    let mut killed = String::new();
    if let Some(mut output) = killer.stdout.take() {
        std::io::Read::read_to_string(&mut output, &mut killed)?;
    }
    killer.wait()?;
    println!(
        "        killed {} times; did not succeed at once: {:?}",
        killed.trim(),
        rounds.as_ref().ok()
    );
    let rounds = rounds?;
    ensure!(
        killed.trim().parse::<u32>().is_ok_and(|times| times > 5),
        "killed only {killed}"
    );
    // In peace, the same is done to the end.
    wait::until("the helper is back", PATIENCE, || {
        let said = host.banger(&["doctor"])?;
        Ok((!said.stdout.contains("fail  helper")).then_some(()))
    })?;
    let gone = host.banger(&["vm", "delete", &name])?;
    ensure!(
        gone.code == 0 || gone.code == 4,
        "after {rounds:?}: {}",
        gone.describe()
    );
    let at: u64 = bystander.sh("cat /run/count")?.parse()?;
    wait::until("the other's counter goes on", PATIENCE, || {
        let now: u64 = bystander.sh("cat /run/count")?.parse()?;
        Ok((now > at).then_some(()))
    })?;
    drop(bystander);
    leaks::nothing_runs(host)?;
    ensure!(base_digest(host)? == before, "the base image changed");
    Ok(())
}

/// The guard that pauses VMs in time is the daemon's; this is what happens without one.
fn full(host: &Host, vmm: Vmm) -> Result<()> {
    let before = base_digest(host)?;
    let guest = Guest::minimal(host, vmm, &[])?;
    let bystander = Guest::minimal(host, vmm, &[])?;
    ensure!(guest.field("storage")? == "dm_snapshot", "another storage");
    guest.sh("echo kept > /root/kept; echo kept > /kept; sync")?;
    bystander.sh("dd if=/dev/zero of=/dev/null bs=1M count=1; echo kept > /kept; sync")?;
    // Told before the daemon goes.
    let line = format!(
        "banger vm exec {} -- sh -c 'i=0; while [ -e /root/kept ] && [ $i -lt 300 ]; do i=$((i+1)); \
         dd if=/dev/urandom of=/fill$i bs=1M count=8 conv=fsync 2>/dev/null || break; done'",
        guest.name
    );
    let mut writer = host
        .command(&line, PATIENCE)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let id = guest.field("id")?;
    let status = format!("dmsetup status | grep -e {id} || dmsetup status");
    let filled = (|| {
        host.root("systemctl kill --kill-whom=main --signal=STOP bangerd.service")?;
        host.root("fallocate -l $(( $(df --output=avail -B1 /var/lib/banger | tail -1) - (64 << 20) )) /var/tmp/filler")?;
        wait::until("the store has no room", PATIENCE, || {
            let said = host.root(&status)?;
            Ok(said.contains("Invalid").then_some(()))
        })
    })();
    host.root(
        "rm -f /var/tmp/filler; systemctl kill --kill-whom=main --signal=CONT bangerd.service",
    )?;
    filled?;
    let _ = writer.wait();
    wait::until("what happened is shown", PATIENCE, || {
        let shown = guest.show()?;
        Ok(shown["root_fill"]["warning"].as_str().map(|_| ()))
    })?;
    ensure!(
        bystander.sh("cat /kept; echo more > /more; sync; cat /more")? == "kept\nmore",
        "the other felt it"
    );
    let _ = host.banger(&["vm", "stop", "--grace", "10", &guest.name])?;
    guest.vm("start")?;
    ensure!(
        guest.sh("cat /kept /root/kept; touch /again /root/again; sync; ls /again")?
            == "kept\nkept\n/again",
        "it is not what it was before the disk was full"
    );
    drop((guest, bystander));
    leaks::nothing_runs(host)?;
    ensure!(base_digest(host)? == before, "the base image changed");
    Ok(())
}
