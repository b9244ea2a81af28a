//! Who else filters on this machine, read from what `nft` and `iptables` list. Pure.

use banger_root_proto::{ForeignDrop, Hook};
use serde::Deserialize;

/// Docker's hook for the rules of others.
pub(crate) const DOCKER_USER: &str = "DOCKER-USER";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Neighbours {
    /// The chain `DOCKER-USER` is there.
    pub(crate) docker: bool,
    /// firewalld's table is there.
    pub(crate) firewalld: bool,
    /// Chains that drop what they do not know.
    pub(crate) drops: Vec<ForeignDrop>,
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    chain: Option<Chain>,
}

#[derive(Deserialize)]
struct Chain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Reads `nft -j list chains`. Chains of the table `own` are not looked at.
pub(crate) fn of_nft(json: &str, own: &str) -> Result<Neighbours, serde_json::Error> {
    let listing: Listing = serde_json::from_str(json)?;
    let mut found = Neighbours::default();
    let chains = listing.nftables.into_iter().filter_map(|item| item.chain);
    let chains: Vec<Chain> = chains.filter(|chain| chain.table != own).collect();
    let is_ufw = |chain: &Chain| {
        let same = |other: &&Chain| (&other.family, &other.table) == (&chain.family, &chain.table);
        let ufw = |other: &Chain| other.name.starts_with("ufw-");
        chains.iter().filter(same).any(ufw)
    };
    for chain in &chains {
        let place = (chain.family.as_str(), chain.table.as_str());
        found.docker |= place == ("ip", "filter") && chain.name == DOCKER_USER;
        found.firewalld |= place == ("inet", "firewalld");
        let drops = chain.policy.as_deref() == Some("drop");
        let filters = chain.kind.as_deref() == Some("filter");
        let hook = match (chain.hook.as_deref(), chain.family.as_str()) {
            (Some("forward"), "ip" | "inet" | "bridge") => Hook::Forward,
            (Some("input"), "ip" | "inet") => Hook::Input,
            _ => continue,
        };
        if drops && filters {
            found.drops.push(ForeignDrop {
                hook,
                family: chain.family.clone(),
                table: chain.table.clone(),
                chain: chain.name.clone(),
                is_ufw: is_ufw(chain),
            });
        }
    }
    Ok(found)
}

/// Reads `iptables-legacy -S`.
pub(crate) fn of_legacy(rules: &str) -> Neighbours {
    let line = |wanted: &str| rules.lines().any(|line| line.trim() == wanted);
    let drop_of = |hook, chain: &str| {
        line(&format!("-P {chain} DROP")).then(|| ForeignDrop {
            hook,
            family: "legacy".to_owned(),
            table: "filter".to_owned(),
            chain: chain.to_owned(),
            is_ufw: rules.contains("-N ufw-"),
        })
    };
    let drops = [(Hook::Forward, "FORWARD"), (Hook::Input, "INPUT")];
    Neighbours {
        docker: line(&format!("-N {DOCKER_USER}")),
        firewalld: false,
        drops: drops
            .into_iter()
            .filter_map(|(hook, chain)| drop_of(hook, chain))
            .collect(),
    }
}

/// Whether whoever owns a dropping chain has let our bridge through: a rule that accepts and names
/// the bridge, in the chain itself or in one whose name says that it belongs to the same hook. What
/// exactly it lets through is its author's business. `listing` is what `nft list table` or
/// `iptables-legacy -S` says.
pub(crate) fn admits(listing: &str, bridge: &str, chain: &ForeignDrop) -> bool {
    let hook = chain.hook.as_str();
    let belongs = |name: &str| name == chain.chain || name.to_ascii_lowercase().contains(hook);
    let mut current = "";
    listing.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["chain", name, "{"] => {
                current = name;
                false
            }
            ["-A", name, rest @ ..] => {
                let names = rest
                    .windows(2)
                    .any(|pair| ["-i", "-o"].contains(&pair[0]) && pair[1] == bridge);
                belongs(name) && names && rest.ends_with(&["-j", "ACCEPT"])
            }
            words => {
                let quoted = format!("\"{bridge}\"");
                belongs(current) && words.contains(&quoted.as_str()) && words.contains(&"accept")
            }
        }
    })
}

/// Where in `DOCKER-USER` our rules go, from `iptables -S DOCKER-USER`: after what the
/// administrator put there, and before the `RETURN` that Docker ends it with.
pub(crate) fn place_in_docker_user(rules: &str) -> Option<usize> {
    let prefix = format!("-A {DOCKER_USER} ");
    let own: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix(&prefix))
        .collect();
    let last = own.last()?;
    (*last == "-j RETURN").then_some(own.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listing(chains: &str) -> String {
        format!("{{\"nftables\": [{{\"metainfo\": {{\"version\": \"1.0.6\"}}}}{chains}]}}")
    }

    fn base(family: &str, table: &str, name: &str, hook: &str, policy: &str) -> String {
        format!(
            ", {{\"chain\": {{\"family\": \"{family}\", \"table\": \"{table}\", \"name\": \"{name}\", \
             \"handle\": 2, \"type\": \"filter\", \"hook\": \"{hook}\", \"prio\": 0, \"policy\": \"{policy}\"}}}}"
        )
    }

    #[test]
    fn docker_firewalld_and_drops_are_told_apart() {
        let chains = [
            base("ip", "filter", "FORWARD", "forward", "drop"),
            base("ip", "filter", "INPUT", "input", "accept"),
            ", {\"chain\": {\"family\": \"ip\", \"table\": \"filter\", \"name\": \"DOCKER-USER\", \"handle\": 1}}"
                .to_owned(),
            base("inet", "firewalld", "filter_FORWARD", "forward", "accept"),
            base("inet", "mine", "in", "input", "drop"),
            base("ip6", "filter", "FORWARD", "forward", "drop"),
            base("inet", "banger_banger0", "forward", "forward", "drop"),
            base("ip", "nat", "OUTPUT", "output", "drop"),
        ];
        let found = of_nft(&listing(&chains.concat()), "banger_banger0").unwrap();
        assert!(found.docker && found.firewalld);
        let drops: Vec<_> = found
            .drops
            .iter()
            .map(|drop| (drop.hook, drop.table.as_str(), drop.chain.as_str()))
            .collect();
        assert_eq!(
            drops,
            [
                (Hook::Forward, "filter", "FORWARD"),
                (Hook::Input, "mine", "in")
            ]
        );
        assert!(of_nft("{", "x").is_err());
        assert_eq!(of_nft(&listing(""), "x").unwrap(), Neighbours::default());
    }

    #[test]
    fn ufw_is_known_by_its_chains() {
        let chains = base("ip", "filter", "FORWARD", "forward", "drop")
            + ", {\"chain\": {\"family\": \"ip\", \"table\": \"filter\", \"name\": \"ufw-user-input\"}}";
        assert!(of_nft(&listing(&chains), "x").unwrap().drops[0].is_ufw);
    }

    #[test]
    fn the_old_iptables_is_read_too() {
        let found = of_legacy("-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n");
        assert!(found.docker);
        assert_eq!(found.drops.len(), 1);
        assert_eq!(found.drops[0].chain, "FORWARD");
        assert_eq!(of_legacy("-P INPUT ACCEPT\n"), Neighbours::default());
    }

    #[test]
    fn a_rule_for_the_bridge_counts_where_it_belongs() {
        let chain = |hook, chain: &str| ForeignDrop {
            hook,
            family: "ip".into(),
            table: "filter".into(),
            chain: chain.into(),
            is_ufw: false,
        };
        let forward = chain(Hook::Forward, "FORWARD");
        let input = chain(Hook::Input, "INPUT");
        let nft = "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; \
                   policy drop;\n\t\tiifname \"banger0\" counter packets 0 bytes 0 accept\n\t}\n}\n";
        assert!(admits(nft, "banger0", &forward));
        assert!(!admits(nft, "banger0", &input) && !admits(nft, "banger1", &forward));
        let ufw = "chain ufw-user-input {\n iifname \"banger0\" udp dport 53 accept\n}";
        assert!(admits(ufw, "banger0", &input) && !admits(ufw, "banger0", &forward));
        let dropped = "chain FORWARD {\n iifname \"banger0\" drop\n}";
        assert!(!admits(dropped, "banger0", &forward));
        let legacy = "-P FORWARD DROP\n-A FORWARD -i banger0 -j ACCEPT\n-A INPUT -i eth0 -j ACCEPT";
        assert!(admits(legacy, "banger0", &forward) && !admits(legacy, "banger0", &input));
    }

    #[test]
    fn ours_come_after_the_administrators_rules() {
        let docker =
            "-N DOCKER-USER\n-A DOCKER-USER -d 10.0.0.0/8 -j DROP\n-A DOCKER-USER -j RETURN\n";
        assert_eq!(place_in_docker_user(docker), Some(2));
        assert_eq!(
            place_in_docker_user("-N DOCKER-USER\n-A DOCKER-USER -j RETURN"),
            Some(1)
        );
        assert_eq!(place_in_docker_user("-N DOCKER-USER\n"), None);
        assert_eq!(place_in_docker_user("-A DOCKER-USER -i x -j DROP"), None);
    }

    proptest! {
        #[test]
        fn no_listing_makes_it_panic(text in "\\PC{0,200}") {
            let chain = ForeignDrop {
                hook: Hook::Input,
                family: String::new(),
                table: String::new(),
                chain: String::new(),
                is_ufw: false,
            };
            let _ = of_nft(&text, "x");
            let _ = admits(&text, "x", &chain);
            let _ = (of_legacy(&text), place_in_docker_user(&text));
        }
    }
}
