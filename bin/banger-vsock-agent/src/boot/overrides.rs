//! Switches off what would fight the identity, by files in the `/run` that this boot mounted: the
//! image stays as it is.

use std::io;

use banger_guest_proto::GuestConfig;

use super::Report;
use crate::agent;
use crate::root::Root;

/// Units that wait for a network which is up already, or configure what is configured.
const MASKED: [&str; 15] = [
    "systemd-networkd-wait-online.service",
    "NetworkManager-wait-online.service",
    "systemd-firstboot.service",
    "cloud-init.service",
    "cloud-init-local.service",
    "cloud-init-network.service",
    "cloud-init-main.service",
    "cloud-config.service",
    "cloud-final.service",
    "networking.service",
    "ifupdown-pre.service",
    "ifupdown-wait-online.service",
    "ifup@eth0.service",
    "dhcpcd.service",
    "wicked.service",
];

pub(super) fn write(root: &Root, config: &GuestConfig, report: &mut Report) {
    report.note("write overrides", write_all(root, config));
}

fn write_all(root: &Root, config: &GuestConfig) -> io::Result<()> {
    let network = format!(
        "[Match]\nMACAddress={}\n\n[Link]\nUnmanaged=yes\n",
        config.mac
    );
    root.write(
        "/run/systemd/network/00-banger.network",
        network.as_bytes(),
        0o644,
    )?;
    let manager = format!(
        "[keyfile]\nunmanaged-devices=mac:{}\n\n[main]\ndns=none\n",
        config.mac
    );
    root.write(
        "/run/NetworkManager/conf.d/00-banger.conf",
        manager.as_bytes(),
        0o644,
    )?;
    // system.control is the one folder under /run that comes before /etc (systemd.unit(5)).
    for unit in MASKED {
        root.link(&format!("/run/systemd/system.control/{unit}"), "/dev/null")?;
    }
    // The modules drive lists nodes to make; an image without kmod cannot, and need not.
    if !root.is_program("/bin/kmod") {
        let unit = "/run/systemd/system.control/kmod-static-nodes.service";
        root.link(unit, "/dev/null")?;
    }
    // Whoever has loaded a module keeps the modules drive busy. It is unmounted last of all, when
    // nobody lives; the attempt before would only print a failure.
    let modules = format!(
        "/lib/modules/{}",
        rustix::system::uname().release().to_string_lossy()
    );
    // The drive is mounted beside this: its place may not be there yet.
    let _ = root.ensure_folder(&modules, 0o755);
    if let Some(place) = root.real_path(&modules) {
        root.write(
            &format!("/run/systemd/system/{}.mount.d/banger.conf", escape(&place)),
            b"[Unit]\nDefaultDependencies=no\n",
            0o644,
        )?;
    }
    // In place of /usr/lib/tmpfiles.d/tmp.conf, whose `D /tmp` empties it at boot: the agent has done
    // that already, and an early command's files are there by now (tmpfiles.d(5)).
    root.write(
        "/run/tmpfiles.d/tmp.conf",
        b"d /tmp 1777 root root -\nd /var/tmp 1777 root root 30d\n",
        0o644,
    )?;
    super::opencode::offer(root)?;
    let ready = ("banger-ready.service", agent::READY_UNIT);
    let programs = ("banger-programs.service", agent::PROGRAMS_UNIT);
    add_unit(root, ready, "multi-user.target")?;
    add_unit(root, programs, "sysinit.target")
}

/// Units of this boot alone (systemd.unit(5)).
const RUNTIME: &str = "/run/systemd/system";

/// Adds a unit to this boot that a target wants.
pub(super) fn add_unit(root: &Root, (name, text): (&str, &str), target: &str) -> io::Result<()> {
    root.write(&format!("{RUNTIME}/{name}"), text.as_bytes(), 0o644)?;
    root.link(&wish(target, name), &format!("../{name}"))
}

/// Whether a unit was added that the target wants.
pub(super) fn has_unit(root: &Root, name: &str, target: &str) -> bool {
    root.has_entry(&wish(target, name))
}

fn wish(target: &str, unit: &str) -> String {
    format!("{RUNTIME}/{target}.wants/{unit}")
}

/// A path as the name of a unit (systemd.unit(5), "String Escaping").
fn escape(path: &str) -> String {
    let mut name = String::new();
    for byte in path.trim_matches('/').bytes() {
        match byte {
            b'/' => name.push('-'),
            b'.' if name.is_empty() => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => {
                name.push(char::from(byte));
            }
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_become_unit_names_as_systemd_escape_makes_them() {
        let name = super::escape("/usr/lib/modules/6.1.0-56-cloud");
        assert_eq!(name, "usr-lib-modules-6.1.0\\x2d56\\x2dcloud");
    }
}
