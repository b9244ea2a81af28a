//! Who the guest is: names, machine id, keys, resolvers, clock. Written into the image's files where
//! its programs look for them; a file that already says so is not touched.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use banger_guest_proto::GuestConfig;
use rustix::fs::{Gid, Mode, Uid};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::Report;
use crate::root::{Root, proc_path};

/// Around what banger writes into a file that people also write.
const BEGIN: &str = "# banger: begin (written at every boot)";
const END: &str = "# banger: end";

/// How far the guest's clock may be ahead of the host's when the config drive was written: the VMM
/// may have been slow to start.
const AHEAD: i128 = 60_000_000_000;
/// How far it may be behind: what the host wrote is in the past by now, so anything behind it is
/// wrong. A real-time clock cuts off the part of a second, and is so nearly always.
const BEHIND: i128 = 20_000_000;

pub(super) fn apply(root: &Root, config: &GuestConfig, report: &mut Report) {
    let name = config.hostname.as_str();
    let named = rustix::system::sethostname(name.as_bytes());
    report.note("set the host name", named.map_err(Into::into));
    let mut write = |path: &str, content: &str, mode: u32| {
        report.note(
            &format!("write {path}"),
            root.write(path, content.as_bytes(), mode),
        );
    };
    write("/etc/hostname", &format!("{name}\n"), 0o644);
    let hosts = hosts(&root.read_text("/etc/hosts"), config);
    write("/etc/hosts", &hosts, 0o644);
    write("/etc/resolv.conf", &resolv_conf(config), 0o644);
    if needs_machine_id(&root.read_text("/etc/machine-id")) {
        write(
            "/etc/machine-id",
            &format!("{}\n", config.machine_id),
            0o444,
        );
    }
    if let Some(key) = &config.ssh_host_key {
        let (private, public) = (with_newline(&key.private), with_newline(&key.public));
        write("/etc/ssh/ssh_host_ed25519_key", &private, 0o600);
        write("/etc/ssh/ssh_host_ed25519_key.pub", &public, 0o644);
    }
    report.note("write root's authorized keys", authorize(root, config));
    report.note("set the clock", set_clock(config.time_unix_ns));
}

fn with_newline(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

/// machine-id(5): empty or `uninitialized` asks for one.
fn needs_machine_id(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || text == "uninitialized"
}

fn resolv_conf(config: &GuestConfig) -> String {
    let mut text = format!("search {}\n", config.domain);
    for resolver in &config.resolvers {
        text.push_str(&format!("nameserver {resolver}\n"));
    }
    text
}

/// The image's or the user's own lines, and ours first.
fn hosts(before: &str, config: &GuestConfig) -> String {
    let mut own = vec![];
    let mut inside = false;
    for line in before.lines() {
        match line {
            BEGIN => inside = true,
            END => inside = false,
            _ if !inside => own.push(line),
            _ => {}
        }
    }
    let (name, domain) = (&config.hostname, &config.domain);
    let address = config.address;
    let mut text = format!("{BEGIN}\n{address} {name}.{domain} {name}\n");
    let has_localhost = own.iter().any(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some("127.0.0.1") && fields.any(|field| field == "localhost")
    });
    if !has_localhost {
        text.push_str("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    }
    text.push_str(END);
    text.push('\n');
    for line in own {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Adds our keys to root's, and gives folders and file the modes that sshd's StrictModes asks for
/// (sshd_config(5)). Keys that the user added stay.
fn authorize(root: &Root, config: &GuestConfig) -> io::Result<()> {
    if config.authorized_keys.is_empty() {
        return Ok(());
    }
    let home = root.ensure_folder("/root", 0o700)?;
    owned_by_root(home.as_fd(), None)?;
    let folder = root.ensure_folder("/root/.ssh", 0o700)?;
    owned_by_root(folder.as_fd(), Some(0o700))?;
    let path = "/root/.ssh/authorized_keys";
    let merged = merge_keys(&root.read_text(path), &config.authorized_keys);
    root.write(path, merged.as_bytes(), 0o600)
}

fn merge_keys(before: &str, ours: &[String]) -> String {
    let mut lines: Vec<&str> = before.lines().collect();
    let ours = ours.iter().map(|key| key.trim());
    for key in ours.filter(|key| !key.is_empty() && !key.contains('\n')) {
        if !lines.iter().any(|line| line.trim() == key) {
            lines.push(key);
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// With no mode given: nobody but root may write to it.
fn owned_by_root(folder: std::os::fd::BorrowedFd<'_>, mode: Option<u32>) -> io::Result<()> {
    let stat = rustix::fs::fstat(folder)?;
    let place = proc_path(folder);
    if (stat.st_uid, stat.st_gid) != (0, 0) {
        rustix::fs::chown(&place, Some(Uid::ROOT), Some(Gid::ROOT))?;
    }
    let now = stat.st_mode & 0o7777;
    let wanted = mode.unwrap_or(now & !0o022);
    if now != wanted {
        rustix::fs::chmod(&place, Mode::from_raw_mode(wanted))?;
    }
    Ok(())
}

/// Corrects a clock that cannot be right: what the host wrote, plus how long this guest is up, is
/// when the host wrote plus at least that.
fn set_clock(written_ns: u64) -> io::Result<()> {
    let up = nanoseconds(clock_gettime(ClockId::Boottime));
    let expected = i128::from(written_ns) + up;
    let error = nanoseconds(clock_gettime(ClockId::Realtime)) - expected;
    if (-BEHIND..=AHEAD).contains(&error) {
        return Ok(());
    }
    let time = Duration::from_nanos(u64::try_from(expected).unwrap_or(written_ns));
    let time = Timespec::try_from(time).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(clock_settime(ClockId::Realtime, time)?)
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GuestConfig {
        GuestConfig {
            generation: 1,
            vm_id: "0123456789ab".parse().unwrap(),
            hostname: "demo".parse().unwrap(),
            domain: "vm".to_owned(),
            machine_id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            address: [172, 16, 0, 2].into(),
            prefix: 24,
            gateway: [172, 16, 0, 1].into(),
            mac: "06:01:23:45:67:89".parse().unwrap(),
            resolvers: vec![[172, 16, 0, 1].into()],
            ssh_host_key: None,
            authorized_keys: vec![],
            kernel_release: None,
            time_unix_ns: 0,
        }
    }

    #[test]
    fn hosts_keeps_what_people_wrote_and_does_not_grow() {
        let first = hosts("10.0.0.9 build\n", &config());
        assert!(first.contains("172.16.0.2 demo.vm demo\n"));
        assert!(first.contains("127.0.0.1 localhost\n"));
        assert!(first.ends_with("10.0.0.9 build\n"));
        assert_eq!(hosts(&first, &config()), first);
        let with_localhost = hosts("127.0.0.1 localhost\n", &config());
        assert_eq!(with_localhost.matches("127.0.0.1").count(), 1);
    }

    #[test]
    fn keys_are_added_once_and_the_users_stay() {
        let ours = ["ssh-ed25519 AAAA banger\n".to_owned()];
        let merged = merge_keys("ssh-rsa BBBB me\n", &ours);
        assert_eq!(merged, "ssh-rsa BBBB me\nssh-ed25519 AAAA banger\n");
        assert_eq!(merge_keys(&merged, &ours), merged);
        let two_lines = ["a\nb".to_owned()];
        assert_eq!(merge_keys("", &two_lines), "");
    }

    #[test]
    fn only_an_unset_machine_id_is_replaced() {
        assert!(needs_machine_id(""));
        assert!(needs_machine_id("uninitialized\n"));
        assert!(!needs_machine_id("0123456789abcdef0123456789abcdef\n"));
    }
}
