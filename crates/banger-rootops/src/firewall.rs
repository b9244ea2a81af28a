//! The firewall, as one `nft` batch that replaces both of our tables at once. Default-deny: what
//! is not said here does not pass.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use banger_core::{TapName, VmId};

use crate::Config;

/// What the firewall knows of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// The only source address it may use.
    pub address: Ipv4Addr,
    /// Whether it reaches what is beyond the bridge.
    pub nat: bool,
}

/// Everything the batch is made of.
#[derive(Debug)]
pub struct Ruleset<'a> {
    /// Bridge and address.
    pub config: &'a Config,
    /// The guests.
    pub guests: &'a BTreeMap<VmId, Guest>,
}

impl Ruleset<'_> {
    /// The name of both tables.
    #[must_use]
    pub fn table(config: &Config) -> String {
        format!("banger_{}", config.bridge.replace('-', "_"))
    }

    /// The batch that takes both tables away, whether they are there or not.
    #[must_use]
    pub fn render_removal(config: &Config) -> String {
        let table = Self::table(config);
        ["inet", "bridge"]
            .map(|family| format!("table {family} {table} {{ }}\ndelete table {family} {table}\n"))
            .concat()
    }

    /// The batch that lets one more guest in, on top of what [`Self::render`] made without it. It
    /// takes a third of the time: nothing is deleted, so the kernel waits for nobody.
    #[must_use]
    pub fn render_addition(config: &Config, vm: &VmId, guest: Guest) -> String {
        let table = Self::table(config);
        let (tap, mac, ip) = (TapName::of(vm), vm.mac(), guest.address);
        let tap = tap.as_str();
        let mut batch = format!(
            "add element bridge {table} taps {{ \"{tap}\" }}\n\
             add element bridge {table} pins {{ \"{tap}\" . {mac} . {ip} }}\n"
        );
        if guest.nat {
            let _ = writeln!(batch, "add element inet {table} nat {{ {ip} }}");
        }
        batch
    }

    /// The batch for `nft -f -`.
    ///
    /// In the table of the bridge family a frame from a tap passes only with the MAC and address
    /// of the tap's VM, and only as IPv4 or ARP. In the table of the inet family guests reach each
    /// other (those packets come by only where `br_netfilter` is on), guests with NAT reach what
    /// is beyond the bridge, and the host answers ping and DNS. Only answers go the other way.
    #[must_use]
    pub fn render(&self) -> String {
        let table = Self::table(self.config);
        let (bridge, ip) = (&self.config.bridge, self.config.bridge_ip);
        let nat = self.guests.values().filter(|guest| guest.nat);
        let nat = elements(nat.map(|guest| guest.address.to_string()));
        let pins = elements(self.guests.iter().map(|(vm, guest)| {
            let tap = TapName::of(vm);
            format!("\"{}\" . {} . {}", tap.as_str(), vm.mac(), guest.address)
        }));
        let taps = self
            .guests
            .keys()
            .map(|vm| format!("\"{}\"", TapName::of(vm).as_str()));
        let taps = elements(taps);
        let mut batch = Self::render_removal(self.config);
        // Writing to a String cannot fail.
        let _ = write!(
            batch,
            r#"table inet {table} {{
	set nat {{
		type ipv4_addr
{nat}	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname "{bridge}" oifname "{bridge}" accept
		iifname "{bridge}" ct state invalid drop
		iifname "{bridge}" ip saddr @nat accept
		iifname "{bridge}" drop
		oifname "{bridge}" ip daddr @nat ct state established,related accept
		oifname "{bridge}" drop
	}}
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname != "{bridge}" accept
		ct state established,related accept
		ip daddr {ip} icmp type echo-request accept
		ip daddr {ip} udp dport 53 accept
		ip daddr {ip} tcp dport 53 accept
		drop
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @nat oifname != "{bridge}" masquerade
	}}
}}
table bridge {table} {{
	set taps {{
		type ifname
{taps}	}}
	set pins {{
		type ifname . ether_addr . ipv4_addr
{pins}	}}
	chain prerouting {{
		type filter hook prerouting priority filter; policy accept;
		iifname != @taps accept
		ether type ip iifname . ether saddr . ip saddr @pins accept
		ether type arp arp htype 1 arp ptype ip iifname . ether saddr . arp saddr ip @pins iifname . arp saddr ether . arp saddr ip @pins accept
		drop
	}}
}}
"#
        );
        batch
    }
}

fn elements(values: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = values.collect();
    if all.is_empty() {
        return String::new();
    }
    format!("\t\telements = {{ {} }}\n", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests() -> BTreeMap<VmId, Guest> {
        let guest = |last, nat| Guest {
            address: Ipv4Addr::new(172, 16, 0, last),
            nat,
        };
        BTreeMap::from([
            ("0123456789ab".parse().unwrap(), guest(2, false)),
            ("ba9876543210".parse().unwrap(), guest(3, true)),
        ])
    }

    #[test]
    fn the_whole_batch() {
        let config = crate::config::example();
        let guests = guests();
        let ruleset = Ruleset {
            config: &config,
            guests: &guests,
        };
        insta::assert_snapshot!(ruleset.render());
    }

    #[test]
    fn nft_accepts_the_batch_with_and_without_guests() {
        let config = crate::config::example();
        for guests in [guests(), BTreeMap::new()] {
            let mut batch = Ruleset {
                config: &config,
                guests: &guests,
            }
            .render();
            let address = Ipv4Addr::new(172, 16, 0, 4);
            let guest = Guest { address, nat: true };
            let vm = "aaaaaaaaaaaa".parse().unwrap();
            batch += &Ruleset::render_addition(&config, &vm, guest);
            let Some(output) = check_with_nft(&batch) else {
                println!("SKIPPED(nft): not root, or no nft or unshare here");
                return;
            };
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{stderr}\n{batch}");
        }
    }

    /// In a network namespace of its own; None when that cannot be had.
    fn check_with_nft(batch: &str) -> Option<std::process::Output> {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let mut child = Command::new("unshare")
            .args(["-n", "nft", "-c", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(batch.as_bytes()).ok()?;
        child
            .wait_with_output()
            .ok()
            .filter(|o| o.status.code() != Some(127))
    }
}
