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
    // In place of /usr/lib/tmpfiles.d/tmp.conf, whose `D /tmp` empties it at boot: the agent has done
    // that already, and an early command's files are there by now (tmpfiles.d(5)).
    root.write(
        "/run/tmpfiles.d/tmp.conf",
        b"d /tmp 1777 root root -\nd /var/tmp 1777 root root 30d\n",
        0o644,
    )?;
    let unit = "banger-ready.service";
    root.write(
        &format!("/run/systemd/system/{unit}"),
        agent::READY_UNIT.as_bytes(),
        0o644,
    )?;
    root.link(
        &format!("/run/systemd/system/multi-user.target.wants/{unit}"),
        &format!("../{unit}"),
    )
}
