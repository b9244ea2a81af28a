//! Standing beside other firewalls. A packet must be let through by every base chain at its hook,
//! so where Docker or firewalld drop what they do not know, one rule goes into the hook that each
//! documents for that. It only takes away their veto: what passes is still decided by our table.

use std::path::PathBuf;
use std::time::Duration;

use banger_root_proto::{ForeignDrop, Hook, Neighbour, NetworkFacts, Refusal, RefusalCode};
use serde::{Deserialize, Serialize};

use crate::Config;
use crate::firewall::Ruleset;
use crate::helper::Helper;
use crate::neighbours::{self, DOCKER_USER, Neighbours};
use crate::program::{self, ProgramError};
use crate::refuse::OrRefuse as _;

/// How long a neighbour's own program may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rules of ours that a neighbour's chain may have to be cleaned of.
const MOST_COPIES: usize = 8;

/// The hooks that we have put something into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Hooks {
    /// `DOCKER-USER` of this kind of iptables.
    pub(crate) docker: Option<Iptables>,
    /// firewalld's zone `trusted`.
    pub(crate) firewalld: bool,
}

/// Which of the two iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Iptables {
    /// The one that makes nftables rules.
    Nft,
    /// The one before.
    Legacy,
}

impl Iptables {
    fn program(self) -> Option<PathBuf> {
        let own = match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        };
        program::find(own).or_else(|| program::find("iptables"))
    }

    fn run(self, args: &[&str]) -> Result<String, BesideError> {
        let program = self.program().ok_or(BesideError::Missing("iptables"))?;
        // It waits for others that hold its lock.
        let args = [&["-w", "5"], args].concat();
        program::run(&program, &args, PATIENCE).map_err(BesideError::Program)
    }
}

/// Why a neighbour's hook could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BesideError {
    /// Its program is not there.
    #[error("`{0}` is not installed")]
    Missing(&'static str),
    /// Its program failed.
    #[error(transparent)]
    Program(ProgramError),
    /// `nft` said something else than JSON.
    #[error("`nft -j list chains` cannot be read")]
    Listing(#[source] serde_json::Error),
}

/// Whether the old iptables has a filter table in this network namespace.
pub(crate) fn has_legacy() -> bool {
    let names = std::fs::read_to_string("/proc/self/net/ip_tables_names").unwrap_or_default();
    names.lines().any(|name| name == "filter")
}

/// Our two rules in `DOCKER-USER`: out of the bridge (and between its ports where bridged packets
/// come by), and the answers back. New connections into guests are never among them.
fn docker_rules(config: &Config) -> [Vec<String>; 2] {
    let tag = format!("banger:{}", config.bridge);
    let words = |text: String| text.split(' ').map(str::to_owned).collect();
    let bridge = &config.bridge;
    [
        words(format!("-i {bridge} -m comment --comment {tag} -j ACCEPT")),
        words(format!(
            "-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment {tag} -j ACCEPT"
        )),
    ]
}

impl Helper {
    /// Looks at who else filters, and puts our rule into the hooks that need it; true when
    /// something was put in. What goes wrong is kept for [`Self::inspect_network`]: guests without
    /// NAT work all the same.
    pub(crate) fn stand_beside(&mut self) -> Result<bool, Refusal> {
        let result = self.look_around().map(|(nft, legacy)| {
            let docker = match (nft.docker, legacy.docker) {
                (true, _) => Some(Iptables::Nft),
                (false, true) => Some(Iptables::Legacy),
                (false, false) => None,
            };
            (docker, nft.firewalld)
        });
        let (docker, firewalld) = match result {
            Ok(found) => found,
            Err(error) => {
                self.beside_problem = Some(chain(&error));
                return Ok(false);
            }
        };
        let mut wanted = self.ledger.hooks;
        wanted.docker = docker.or(wanted.docker);
        wanted.firewalld |= firewalld;
        if wanted != self.ledger.hooks {
            self.ledger.hooks = wanted;
            self.save()?;
        }
        let mut put_in = false;
        let mut problem = None;
        let mut note = |name: &str, result: Result<bool, BesideError>| match result {
            Ok(done) => put_in |= done,
            Err(error) => problem = Some(format!("{name}: {}", chain(&error))),
        };
        if let Some(iptables) = docker {
            note("Docker", self.enter_docker(iptables));
        }
        if firewalld {
            note("firewalld", self.enter_firewalld());
        }
        self.beside_problem = problem;
        Ok(put_in)
    }

    fn look_around(&self) -> Result<(Neighbours, Neighbours), BesideError> {
        let json = self
            .nft
            .list(&["-j", "list", "chains"])
            .map_err(BesideError::Program)?;
        let own = Ruleset::table(&self.config);
        let nft = neighbours::of_nft(&json, &own).map_err(BesideError::Listing)?;
        let legacy = match has_legacy() {
            true => neighbours::of_legacy(&Iptables::Legacy.run(&["-S"])?),
            false => Neighbours::default(),
        };
        Ok((nft, legacy))
    }

    fn enter_docker(&self, iptables: Iptables) -> Result<bool, BesideError> {
        let mut put_in = false;
        for rule in docker_rules(&self.config) {
            let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
            if iptables
                .run(&[&["-C", DOCKER_USER], &rule[..]].concat())
                .is_ok()
            {
                continue;
            }
            let rules = iptables.run(&["-S", DOCKER_USER])?;
            let at = neighbours::place_in_docker_user(&rules).map(|at| at.to_string());
            let verb = match &at {
                Some(at) => vec!["-I", DOCKER_USER, at],
                None => vec!["-A", DOCKER_USER],
            };
            iptables.run(&[&verb[..], &rule[..]].concat())?;
            put_in = true;
        }
        Ok(put_in)
    }

    /// A bridge that somebody has put into a zone of firewalld's is left there.
    fn enter_firewalld(&self) -> Result<bool, BesideError> {
        let table = ["list", "table", "inet", "firewalld"];
        let listing = self.nft.list(&table).map_err(BesideError::Program)?;
        if listing.contains(&format!("\"{}\"", self.config.bridge)) {
            return Ok(false);
        }
        self.firewall_cmd("add").map(|_| true)
    }

    fn firewall_cmd(&self, verb: &str) -> Result<String, BesideError> {
        let program = program::find("firewall-cmd").ok_or(BesideError::Missing("firewall-cmd"))?;
        let change = format!("--{verb}-interface={}", self.config.bridge);
        program::run(&program, &["-q", "--zone=trusted", &change], PATIENCE)
            .map_err(BesideError::Program)
    }

    /// Takes our rules out of the hooks of others. A hook that is gone has taken them with it.
    pub(crate) fn leave_neighbours(&mut self) {
        if let Some(iptables) = self.ledger.hooks.docker {
            for rule in docker_rules(&self.config) {
                let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
                let delete = [&["-D", DOCKER_USER], &rule[..]].concat();
                (0..MOST_COPIES).find(|_| iptables.run(&delete).is_err());
            }
        }
        if self.ledger.hooks.firewalld {
            // It has ended, or the bridge is in another zone.
            let _ = self.firewall_cmd("remove");
        }
        self.ledger.hooks = Hooks::default();
        self.beside_problem = None;
    }

    /// Whether anybody but us forwards or translates packets on this machine.
    pub(crate) fn others_forward(&self) -> bool {
        let own = Ruleset::table(&self.config);
        let listing = self.nft.list(&["list", "chains"]).unwrap_or_default();
        let mut table = "";
        let in_nft = listing.lines().any(|line| {
            if let Some(name) = line.strip_prefix("table ") {
                table = name.split_whitespace().nth(1).unwrap_or_default();
            }
            let hooks = ["hook forward", "type nat hook postrouting"];
            table != own && hooks.iter().any(|hook| line.contains(hook))
        });
        in_nft || has_legacy()
    }

    /// The network as it is.
    pub(crate) fn inspect_network(&mut self) -> Result<NetworkFacts, Refusal> {
        let mut netlink = self.netlink()?;
        let taken = match self.check_free(&mut netlink) {
            Err(refusal) if refusal.code == RefusalCode::Conflict => Some(refusal.message),
            other => other.map(|_| None)?,
        };
        let links = netlink
            .links()
            .or_refuse(|| "failed to list network interfaces".into())?;
        let set = |path: &str| std::fs::read(path).is_ok_and(|value| value.starts_with(b"1"));
        let mut facts = NetworkFacts {
            stands: self.network_stands(&links),
            taken,
            forwarding: set("/proc/sys/net/ipv4/ip_forward"),
            bridged_are_filtered: set("/proc/sys/net/bridge/bridge-nf-call-iptables"),
            beside_problem: self.beside_problem.clone(),
            pool: u8::try_from(self.pool_links(&links).len()).unwrap_or(u8::MAX),
            ..NetworkFacts::default()
        };
        match self.look_around() {
            Ok((nft, legacy)) => {
                let docker = nft.docker || legacy.docker;
                if docker && self.ledger.hooks.docker.is_some() && facts.beside_problem.is_none() {
                    facts.beside.push(Neighbour::Docker);
                }
                if nft.firewalld && self.ledger.hooks.firewalld {
                    facts.beside.push(Neighbour::Firewalld);
                }
                let drops = nft.drops.into_iter().chain(legacy.drops);
                let in_the_way = |drop: &ForeignDrop| self.stands_in_our_way(drop, &facts.beside);
                facts.drops = drops.filter(in_the_way).collect();
            }
            Err(error) => facts.beside_problem = Some(chain(&error)),
        }
        Ok(facts)
    }

    fn stands_in_our_way(&self, drop: &ForeignDrop, beside: &[Neighbour]) -> bool {
        let is_dockers = drop.hook == Hook::Forward && drop.chain == "FORWARD";
        if is_dockers && beside.contains(&Neighbour::Docker) {
            return false;
        }
        let listing = match drop.family.as_str() {
            "legacy" => Iptables::Legacy.run(&["-S"]).ok(),
            family => self.nft.list(&["list", "table", family, &drop.table]).ok(),
        };
        let admits = |listing: String| neighbours::admits(&listing, &self.config.bridge, drop);
        !listing.is_some_and(admits)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| std::error::Error::source(*cause));
    std::iter::once(error.to_string())
        .chain(causes.map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(": ")
}
