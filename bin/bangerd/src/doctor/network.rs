//! The network: bridge, firewalls of others, and who asks for `.vm`. What is found is put into words
//! by pure code.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use banger_api::{Check, CheckResult};
use banger_root_proto::{ForeignDrop, Hook, Neighbour, NetworkFacts};

use super::check;
use crate::state::State;

/// How long the host's resolver may take for a name of ours.
const PATIENCE: Duration = Duration::from_secs(3);

/// Every check.
pub(super) async fn examine(state: &State) -> Vec<Check> {
    let mut checks = vec![server(state)];
    // A helper that is away is told by its own check.
    let Ok(facts) = state.helper.inspect_network().await else {
        return checks;
    };
    checks.push(network(&facts));
    checks.extend(neighbours(&facts));
    let Ok(info) = state.helper.info().await else {
        return checks;
    };
    checks.extend(
        facts
            .drops
            .iter()
            .map(|drop| blocked(drop, &facts, &info.bridge)),
    );
    if facts.stands && state.dns.address().is_some() {
        let wanted = state.helper.zone().server_address();
        checks.push(routing(
            resolved().await,
            wanted,
            state.helper.names_problem(),
        ));
    }
    checks
}

fn server(state: &State) -> Check {
    let message = format!("names under .vm are answered on {}", state.dns);
    match state.dns.address() {
        Some(_) => check("dns", CheckResult::Pass, message, None),
        None => check("dns", CheckResult::Warn, message, Some("free the port")),
    }
}

fn network(facts: &NetworkFacts) -> Check {
    if let Some(taken) = &facts.taken {
        let message = format!("no VM can be on the network: {taken}");
        let fix = "remove it, or choose another bridge or subnet: `bridge_name`, `cidr`; where banger is \
                   installed, `system install --bridge NAME --cidr NET/BITS`";
        return check("network", CheckResult::Fail, message, Some(fix));
    }
    let message = match (facts.stands, facts.forwarding) {
        (false, _) => "bridge and firewall are made with the first VM",
        (true, false) => "bridge and firewall stand",
        (true, true) => "bridge and firewall stand; this machine forwards packets",
    };
    check("network", CheckResult::Pass, message.to_owned(), None)
}

fn neighbours(facts: &NetworkFacts) -> Option<Check> {
    if let Some(problem) = &facts.beside_problem {
        let message =
            format!("guests may not get through the firewall of another product: {problem}");
        let fix = "see what it says; it is tried again within seconds";
        return Some(check("firewall", CheckResult::Warn, message, Some(fix)));
    }
    let hook = |neighbour: &Neighbour| match neighbour {
        Neighbour::Docker => "Docker's (chain DOCKER-USER)",
        Neighbour::Firewalld => "firewalld's (zone trusted)",
    };
    let hooks: Vec<&str> = facts.beside.iter().map(hook).collect();
    let message = format!("guests get through {}", hooks.join(" and "));
    (!hooks.is_empty()).then(|| check("firewall", CheckResult::Pass, message, None))
}

/// A chain that drops what it does not know, and what to add to it.
fn blocked(drop: &ForeignDrop, facts: &NetworkFacts, bridge: &str) -> Check {
    let chain = format!("{} {} {}", drop.family, drop.table, drop.chain);
    let lost = match (drop.hook, facts.bridged_are_filtered) {
        (Hook::Input, _) => "guests get no names from this host, and no answer to a ping",
        (Hook::Forward, false) => "guests with --nat reach nothing",
        (Hook::Forward, true) => "guests with --nat reach nothing, and guests not each other",
    };
    let message = format!(
        "the chain `{chain}` drops what it does not know, and nothing of banger's can override \
         that: {lost}"
    );
    let fix = match (drop.hook, drop.is_ufw, drop.family.as_str()) {
        (Hook::Input, true, _) => format!(
            "ufw allow in on {bridge} to any port 53 (banger's own table keeps the rest away)"
        ),
        (Hook::Forward, true, _) => {
            format!("ufw route allow in on {bridge} (banger's own table keeps the rest away)")
        }
        (Hook::Input, false, "legacy") => {
            format!("iptables-legacy -I {} -i {bridge} -j ACCEPT", drop.chain)
        }
        (Hook::Forward, false, "legacy") => format!(
            "iptables-legacy -I {0} -i {bridge} -j ACCEPT; iptables-legacy -I {0} -o {bridge} \
             -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            drop.chain
        ),
        (Hook::Input, false, _) => {
            format!("nft insert rule {chain} iifname {bridge} accept (banger's own table filters)")
        }
        (Hook::Forward, false, _) => format!(
            "nft insert rule {chain} iifname {bridge} accept; \
             nft insert rule {chain} oifname {bridge} ct state established,related accept"
        ),
    };
    check("firewall", CheckResult::Warn, message, Some(&fix))
}

/// What this host's resolver says to `ns.vm`.
async fn resolved() -> Vec<IpAddr> {
    let asking = tokio::net::lookup_host(("ns.vm", 0));
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        _ => vec![],
    }
}

fn routing(found: Vec<IpAddr>, wanted: Option<Ipv4Addr>, problem: Option<String>) -> Check {
    let is_right = wanted.is_some_and(|wanted| found.contains(&wanted.into()));
    if is_right {
        let message = "this host resolves names under .vm".to_owned();
        return check("names", CheckResult::Pass, message, None);
    }
    let message = match problem {
        Some(why) => format!("this host does not resolve names under .vm: {why}"),
        None => "this host does not resolve names under .vm (VMs are reached by address, and each \
                 other by name)"
            .to_owned(),
    };
    let fix = "docs/dns-routing.md has a recipe for this host's resolver";
    check("names", CheckResult::Warn, message, Some(fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop(hook: Hook, family: &str, is_ufw: bool) -> ForeignDrop {
        ForeignDrop {
            hook,
            family: family.to_owned(),
            table: "filter".to_owned(),
            chain: hook.as_str().to_uppercase(),
            is_ufw,
        }
    }

    #[test]
    fn what_blocks_says_what_to_run() {
        let facts = NetworkFacts {
            bridged_are_filtered: true,
            ..NetworkFacts::default()
        };
        for (drop, fix) in [
            (
                drop(Hook::Forward, "ip", true),
                "ufw route allow in on banger0",
            ),
            (drop(Hook::Input, "ip", true), "ufw allow in on banger0"),
            (
                drop(Hook::Forward, "inet", false),
                "nft insert rule inet filter FORWARD iifname banger0 accept",
            ),
            (
                drop(Hook::Input, "inet", false),
                "nft insert rule inet filter INPUT iifname banger0 accept",
            ),
            (
                drop(Hook::Forward, "legacy", false),
                "iptables-legacy -I FORWARD -i banger0",
            ),
            (
                drop(Hook::Input, "legacy", false),
                "iptables-legacy -I INPUT -i banger0",
            ),
        ] {
            let check = blocked(&drop, &facts, "banger0");
            assert_eq!(check.result, CheckResult::Warn);
            assert!(check.fix.as_ref().unwrap().starts_with(fix), "{check:?}");
        }
        let forward = blocked(&drop(Hook::Forward, "ip", false), &facts, "banger0");
        assert!(forward.message.contains("not each other"));
    }

    #[test]
    fn a_bridge_that_is_somebody_elses_is_a_failure_with_its_name() {
        let mut facts = NetworkFacts::default();
        assert_eq!(network(&facts).result, CheckResult::Pass);
        facts.taken = Some("there is a network interface `banger0` that is not ours".into());
        let check = network(&facts);
        assert_eq!(check.result, CheckResult::Fail);
        assert!(check.message.contains("`banger0`"), "{check:?}");
        assert!(check.fix.is_some(), "{check:?}");
    }

    #[test]
    fn names_are_routed_when_the_answer_is_ours() {
        let ours = Ipv4Addr::new(172, 16, 0, 1);
        let result = |found: &[Ipv4Addr]| {
            let found = found.iter().copied().map(IpAddr::V4).collect();
            routing(found, Some(ours), None).result
        };
        assert_eq!(result(&[ours]), CheckResult::Pass);
        assert_eq!(result(&[]), CheckResult::Warn);
        // A resolver that answers everything.
        assert_eq!(result(&[Ipv4Addr::new(10, 0, 0, 1)]), CheckResult::Warn);
    }

    #[test]
    fn hooks_and_problems_are_told() {
        let mut facts = NetworkFacts::default();
        assert_eq!(neighbours(&facts), None);
        facts.beside = vec![Neighbour::Docker, Neighbour::Firewalld];
        let both = neighbours(&facts).unwrap();
        assert!(both.message.contains("DOCKER-USER") && both.message.contains("trusted"));
        facts.beside_problem = Some("no".into());
        assert_eq!(neighbours(&facts).unwrap().result, CheckResult::Warn);
    }
}
