//! A repository inside and an agent at work: checkouts and commits, copies, sessions, forwarding, and what goes by
//! a VM's name.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::echo::Echo;
use super::guest::{Guest, PATIENCE};
use super::{Length, Test, Vmm};
use crate::host::{Host, User};
use crate::wait;

/// The tests of this file.
pub(super) fn tests() -> Vec<Test> {
    [
        Test::each_beside(
            "repo/a-run-with-a-path-in-an-image-without-git",
            Length::Smoke,
            run_with_path,
        ),
        Test::pair(
            "repo/commits-copies-sessions-forwarding-and-names",
            Length::Whole,
            whole_work,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Makes a repository of two commits at `~/NAME`, with something untracked beside.
fn repository(host: &Host, name: &str) -> Result<()> {
    host.dev(&format!(
        "rm -rf ~/{name} && git init -q -b main ~/{name} && cd ~/{name} && git config user.name Ann && \
         git config user.email ann@example.com && echo one > a.txt && mkdir src && echo two > src/b.txt && \
         ln -s src/b.txt link && git add -A && git commit -qm first && echo again >> a.txt && git commit -qam second && \
         echo x > untracked"
    ))
    .map(drop)
}

fn run_with_path(host: &Host, vmm: Vmm) -> Result<()> {
    let name = format!("run-{}", vmm.name());
    repository(host, &name)?;
    let line = format!(
        "cd / && banger vm run --rm --vmm {} --image debian-minimal --memory 256 --env TOKEN=s3cret ~/{name} -- \
         sh -c 'pwd; cat a.txt link; ls; echo $TOKEN'",
        vmm.name()
    );
    let start = Instant::now();
    let ran = host.run(User::Dev, &line)?;
    host.note(format!("vm run PATH on {}", vmm.name()), start.elapsed());
    ensure!(
        ran.code == 0
            && ran.stdout == "/root/repo\none\nagain\ntwo\na.txt\nlink\nsrc\nuntracked\ns3cret\n",
        "{}",
        ran.describe()
    );
    let kept = host
        .root("grep -rlaF s3cret /var/lib/banger/banger.db* /var/log/banger 2>/dev/null || true")?;
    ensure!(kept.is_empty(), "the run's secret is in {kept}");
    let clean = host.dev(&format!("git -C ~/{name} status --porcelain"))?;
    ensure!(clean == "?? untracked", "the checkout is now {clean}");
    Ok(())
}

/// One Debian guest does it all: its boot takes longer than the rest.
fn whole_work(host: &Host, vmm: Vmm) -> Result<()> {
    host.once("the image is taken along", || {
        host.take_along("images/debian-bookworm")
    })?;
    let guest = Guest::create(host, vmm, &["--memory", "512", "--vcpu", "2"])?;
    commits(host, &guest, &format!("work-{}", vmm.name()))?;
    copies(host, &guest)?;
    sessions(host, &guest)?;
    forwarding(host, vmm, &guest)?;
    by_name(host, &guest)
}

fn commits(host: &Host, guest: &Guest<'_>, repo: &str) -> Result<()> {
    repository(host, repo)?;
    let name = &guest.name;
    host.dev(&format!("banger vm workspace prepare {name} ~/{repo}"))?;
    let head = host.dev(&format!("git -C ~/{repo} rev-parse HEAD"))?;
    let inside = guest.sh(
        "cd /root/repo && git fsck --strict --no-dangling && git status --porcelain && git rev-parse HEAD",
    )?;
    ensure!(
        inside == head,
        "the guest's checkout is {inside}, not {head}"
    );
    let commit = guest.sh(
        "cd /root/repo && echo guest > c.txt && git add c.txt && git commit -qm guest && echo loose >> a.txt && \
         git rev-parse HEAD",
    )?;
    let delete = host.run(User::Dev, &format!("banger vm delete {name} </dev/null"))?;
    ensure!(
        delete.code != 0 && delete.stderr.contains("never pulled"),
        "a delete does not mind unpulled work: {}",
        delete.describe()
    );
    host.dev(&format!(
        "banger vm workspace pull {name} ~/{repo} --branch from-guest"
    ))?;
    let here = host.dev(&format!(
        "cd ~/{repo} && git fsck --strict --no-dangling && git rev-parse from-guest~1 && \
         git show from-guest:a.txt && git status --porcelain"
    ))?;
    ensure!(
        here == format!("{commit}\none\nagain\nloose\n?? untracked"),
        "what came back is {here}"
    );
    Ok(())
}

fn copies(host: &Host, guest: &Guest<'_>) -> Result<()> {
    let name = &guest.name;
    // Each guest's own.
    let (tree, back) = (format!("tree-{name}"), format!("back-{name}"));
    host.dev(&format!(
        "mkdir -p ~/{tree}/inner && head -c 30000000 /dev/urandom > ~/{tree}/inner/large && ln -sf inner/large ~/{tree}/link"
    ))?;
    host.dev(&format!("banger vm cp ~/{tree} {name}:/srv/"))?;
    let digest = "sha256sum < inner/large; readlink link; stat -c %a inner/large";
    let there = guest.sh(&format!("cd /srv/{tree} && {digest}"))?;
    host.dev(&format!(
        "mkdir ~/{back} && banger vm cp {name}:/srv/{tree} ~/{back}/"
    ))?;
    for (what, folder) in [
        ("sent", format!("~/{tree}")),
        ("brought back", format!("~/{back}/{tree}")),
    ] {
        let here = host.dev(&format!("cd {folder} && {digest}"))?;
        ensure!(here == there, "{what}: {here}, in the guest: {there}");
    }
    Ok(())
}

fn sessions(host: &Host, guest: &Guest<'_>) -> Result<()> {
    let name = &guest.name;
    host.dev(&format!(
        "banger vm session start {name} --name count -- sh -c 'for i in $(seq 300); do echo $i; sleep 0.1; done; exit 3'"
    ))?;
    host.dev(&format!(
        "banger vm session start {name} --name mirror --stdin-mode pipe -- cat"
    ))?;
    let mut mirror = Echo::open(host, &format!("banger vm session attach {name} mirror"))?;
    mirror.say("before")?;
    host.kill_services("bangerd.service")?;
    mirror.say("the daemon is dead")?;
    mirror.end()?;
    wait::until("systemd has started the daemon again", PATIENCE, || {
        let asked = guest.exec(&["true"])?;
        Ok((asked.code == 0).then_some(()))
    })?;
    wait::until("the counting session has ended", PATIENCE, || {
        guest.not_failed(&guest.field("phase")?, "running")?;
        let shown = host.json(&["vm", "session", "show", name, "count"])?;
        let (state, code) = (&shown["state"], &shown["status"]["code"]);
        ensure!(state != "ended" || code == 3, "it ended otherwise: {shown}");
        Ok((state == "ended").then_some(()))
    })?;
    let counted = host.dev(&format!(
        "banger vm session logs {name} count | cmp - <(seq 300) && echo same"
    ))?;
    ensure!(counted == "same", "its log is not what it wrote: {counted}");
    Ok(())
}

fn forwarding(host: &Host, vmm: Vmm, guest: &Guest<'_>) -> Result<()> {
    let name = &guest.name;
    guest.sh(
        "mkdir -p /www && echo from-the-guest > /www/page && cd /www && \
              setsid python3 -m http.server 8099 --bind 127.0.0.1 >/dev/null 2>&1 </dev/null &",
    )?;
    // The two VMMs' tests run at the same time.
    let port = match vmm {
        Vmm::Qemu => 18099,
        Vmm::Firecracker => 18098,
    };
    let page = host.dev(&format!(
        "banger vm forward {name} {port}:8099 >/dev/null 2>&1 & forward=$!; \
         for i in $(seq 100); do curl -sf http://127.0.0.1:{port}/page && break; sleep 0.2; done; \
         kill -INT $forward; wait $forward; true"
    ))?;
    ensure!(
        page == "from-the-guest",
        "through the forwarded port came {page}"
    );
    let said = host.dev(&format!(
        "printf 'one\\ntwo\\n' | banger vm acp {name} --cwd /srv -- sh -c 'pwd; cat; exit 4'; echo code $?"
    ))?;
    ensure!(said == "/srv\none\ntwo\ncode 4", "acp: {said}");
    Ok(())
}

/// Also while the guest has no network.
fn by_name(host: &Host, guest: &Guest<'_>) -> Result<()> {
    let name = &guest.name;
    host.dev("banger vm ssh-config --install")?;
    ensure!(
        host.dev(&format!("ssh {name}.vm hostname"))? == *name,
        "ssh by name"
    );
    guest.sh("ip link set eth0 down; git init -q --bare -b main /root/repo.git")?;
    let vmm = guest.field("vmm")?;
    let script = format!(
        "set -e; cd ~; ssh {name}.vm 'cat > /root/by-ssh' < checkout/README.md; \
         rsync -a tree-{name}/ {name}.vm:/root/by-rsync/; \
         echo 'put checkout/README.md /root/by-sftp' | sftp -q -b - {name}.vm >/dev/null; \
         git -C work-{vmm} push -q ssh://{name}.vm/root/repo.git HEAD:main; \
         sha256sum < checkout/README.md; sha256sum < tree-{name}/inner/large; git -C work-{vmm} rev-parse HEAD"
    );
    let here = host.dev(&script)?;
    let there = guest.sh(
        "sha256sum < /root/by-ssh; sha256sum < /root/by-rsync/inner/large; git -C /root/repo.git rev-parse main; \
         cmp /root/by-ssh /root/by-sftp",
    )?;
    ensure!(here == there, "sent by name: {here}, arrived: {there}");
    guest.sh("ip link set eth0 up").map(drop)
}
